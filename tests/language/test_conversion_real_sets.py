"""Data sets that people made, against integers that are computed here, in another way."""

from fractions import Fraction
from pathlib import Path

import pytest

from tests.language.yolo_sets import answers, converted


def _thousandths(line: str) -> tuple[int, list[int]]:
    """Class and box of a label line, in exact arithmetic. A tie within the doubles' error goes either way elsewhere."""
    number, *values = line.split()
    x, y, width, height = map(Fraction, values)
    edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return int(number), [round(min(max(edge, Fraction(0)), Fraction(1)) * 1000) for edge in edges]


def _is_tie(line: str) -> bool:
    """Whether an edge lies exactly between two thousandths, so that only the doubles decide."""
    x, y, width, height = map(Fraction, line.split()[1:])
    return any((v * 1000) % 1 == Fraction(1, 2) for v in (x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def _compare(source: Path, output: Path, labels: dict[str, Path], names: list[str]) -> tuple[int, int]:
    """Compare every answer with its label file; returns how many boxes are equal, and how many are undecided ties."""
    data_sets, _ = converted(source, output)
    given = {picture: objects for name in data_sets.data_sets for picture, objects in answers(output, name).items()}
    assert given.keys() == labels.keys()
    equal = ties = 0
    for picture, label in labels.items():
        lines = [line for line in label.read_text().splitlines() if line.strip()]
        assert len(lines) == len(given[picture])
        for line, found in zip(lines, given[picture], strict=True):
            number, box = _thousandths(line)
            assert found["label"] == names[number]
            if _is_tie(line):
                assert all(abs(a - b) <= 1 for a, b in zip(found["bbox_2d"], box, strict=True))
                ties += 1
            else:
                assert found["bbox_2d"] == box
                equal += 1
    return equal, ties


def test_the_darknet_set_of_yolo_mark_gives_its_35_boxes(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "darknet-yolomark"
    labels = {f"images/data/img/{path.stem}.jpg": path for path in (source / "data/img").glob("*.txt")}
    assert sum(_compare(source, tmp_path / "out", labels, ["air", "bird"])) == 35


def test_the_roboflow_export_gives_its_73_boxes(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "roboflow-empire-state"
    labels = {f"images/{path.parents[1].name}/images/{path.stem}.jpg": path for path in source.glob("*/labels/*.txt")}
    assert sum(_compare(source, tmp_path / "out", labels, ["Empire-State-building"])) == 73


def test_a_cvat_export_with_its_pictures_apart_gives_its_273_boxes(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "nine-formats"
    folder = source / "gts" / "yolo_format"
    names = (folder / "obj.names").read_text().split()
    labels = {f"images/images/{path.stem}.jpg": path for path in (folder / "obj_train_data").glob("*.txt")}
    equal, ties = _compare(source, tmp_path / "out", labels, names)
    assert (equal + ties, len(names)) == (273, 20)
    assert ties <= 5


@pytest.mark.parametrize("name", ["darknet-yolomark", "roboflow-empire-state", "nine-formats"])
def test_no_line_of_a_real_set_is_fixed_or_refused(shared_data: Path, tmp_path: Path, name: str) -> None:
    _, report = converted(shared_data / name, tmp_path / "out")
    annotations = report["totals"]["annotations"]
    assert (annotations["fixed"], annotations["refused"]) == (0, 0)
    assert annotations["kept"] == annotations["read"]


def test_a_list_that_names_a_missing_picture_says_so_with_its_line(shared_data: Path, tmp_path: Path) -> None:
    _, report = converted(shared_data / "darknet-yolomark", tmp_path / "out")
    (row,) = report["rows"]
    assert (row["file"], row["line"], row["codes"]) == ("data/train.txt", 7, ["picture_missing"])
