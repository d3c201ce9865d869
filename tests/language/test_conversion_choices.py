"""What whoever converts may choose: classes, sizes, splits, negatives; each against the set as it is."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.language.yolo_sets import LINE, answers, converted, options, picture, write_set
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import InvalidInput

THREE = "0 0.2 0.2 0.2 0.2\n1 0.5 0.5 0.2 0.2\n2 0.8 0.8 0.2 0.2\n"


def _set(folder: Path, labels: str = THREE, names: str = "[cat, dog, cow]", count: int = 1, empty: int = 0) -> Path:
    files: dict[str, str | bytes] = {"data.yaml": f"train: images\nnames: {names}\n"}
    for number in range(count):
        files |= {f"images/{number}.jpg": picture((100, 50)), f"labels/{number}.txt": labels}
    for number in range(empty):
        files |= {f"images/empty{number}.jpg": picture(), f"labels/empty{number}.txt": ""}
    return write_set(folder / "set", files)


def _labels(folder: Path) -> list[str]:
    return [found["label"] for found in answers(folder)["images/images/0.jpg"]]


@pytest.mark.parametrize("classes", [("dog", "cow"), (1, 2), ("1", "2"), (2, "dog")])
def test_classes_are_kept_by_id_or_by_name(tmp_path: Path, classes: tuple[int | str, ...]) -> None:
    _, report = converted(_set(tmp_path), tmp_path / "out", options(classes=classes))
    assert _labels(tmp_path / "out") == ["dog", "cow"]
    assert report["classes"] == {"1": "dog", "2": "cow"}
    assert report["totals"]["annotations"] == {"read": 3, "kept": 2, "fixed": 0, "refused": 0, "left_out": 1}


def test_classes_are_renamed_and_merged(tmp_path: Path) -> None:
    _, report = converted(_set(tmp_path), tmp_path / "out", options(rename={"cat": "pet", "1": "pet"}))
    assert _labels(tmp_path / "out") == ["pet", "pet", "cow"]
    assert report["classes"] == {"0": "pet", "2": "cow"}
    assert report["boxes_per_class"] == {"cow": 1, "pet": 2}


def test_a_label_format_counts_the_classes_that_are_left_from_0(tmp_path: Path) -> None:
    source = _set(tmp_path)
    converted(source, tmp_path / "out", options(to="yolo", classes=("dog", "cow"), rename={"cow": "ox"}))
    (label,) = (tmp_path / "out").rglob("0.txt")
    assert [line.split()[0] for line in label.read_text().splitlines()] == ["0", "1"]
    names = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"]
    assert names in (["dog", "ox"], {0: "dog", 1: "ox"})


def test_classes_without_names_are_chosen_and_named_by_id(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"images/0.jpg": picture(), "labels/0.txt": THREE}
    source = write_set(tmp_path / "set", files)
    converted(source, tmp_path / "out", options(classes=(1, 2), rename={"2": "cow"}))
    assert _labels(tmp_path / "out") == ["class_1", "cow"]


@pytest.mark.parametrize("chosen", [{"classes": ("horse",)}, {"classes": (3,)}, {"rename": {"horse": "cow"}}])
def test_a_class_that_the_set_does_not_have_is_refused_by_name(tmp_path: Path, chosen: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"no class .*0 cat, 1 dog, 2 cow"):
        converted(_set(tmp_path), tmp_path / "out", options(**chosen))


def test_small_boxes_are_left_out_by_the_pixels_of_their_shorter_side(tmp_path: Path) -> None:
    labels = "0 0.5 0.5 0.5 0.1\n1 0.5 0.5 0.5 0.2\n"  # 5 and 10 pixels high
    _, report = converted(_set(tmp_path, labels), tmp_path / "out", options(min_size=6))
    assert _labels(tmp_path / "out") == ["dog"]
    assert report["totals"]["annotations"]["left_out"] == 1
    with pytest.raises(ValueError, match="min_size"):
        options(min_size=6, check="none")


def test_a_new_split_has_the_shares_that_were_asked_for_and_is_the_same_every_time(tmp_path: Path) -> None:
    source = _set(tmp_path, LINE, count=20)
    chosen = options(split={"train": 0.8, "val": 0.2}, seed=5, check="header")
    report, _ = converted(source, tmp_path / "one", chosen)
    assert {name: part["samples"] for name, part in report.data_sets.items()} == {"grounding": 16, "grounding_val": 4}
    converted(source, tmp_path / "two", chosen, processes=2)
    validation = set(answers(tmp_path / "one", "grounding_val"))
    assert validation == set(answers(tmp_path / "two", "grounding_val"))
    converted(source, tmp_path / "other", options(split={"train": 0.8, "val": 0.2}, seed=6, check="header"))
    assert validation != set(answers(tmp_path / "other", "grounding_val"))


def test_a_set_without_a_held_out_split_gets_one_and_a_set_with_one_keeps_it(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "drawn", 20, 1, side=32)  # its data.yaml has the pictures of train in val, too
    report, _ = converted(tmp_path / "drawn", tmp_path / "one", options(hold_out=0.25))
    assert {name: part["samples"] for name, part in report.data_sets.items()} == {"grounding": 15, "grounding_val": 5}
    files: dict[str, str | bytes] = {"data.yaml": "train: train/images\nval: val/images\nnames: [cat]\n"}
    for split, number in (("train", 1), ("train", 2), ("train", 3), ("val", 4)):
        files |= {f"{split}/images/{number}.jpg": picture(), f"{split}/labels/{number}.txt": LINE}
    report, _ = converted(write_set(tmp_path / "set", files), tmp_path / "other", options(hold_out=0.5))
    assert {name: part["samples"] for name, part in report.data_sets.items()} == {"grounding": 3, "grounding_val": 1}
    with pytest.raises(ValueError, match="choose"):
        options(hold_out=0.5, split={"train": 1})


def test_augmented_copies_of_a_picture_never_fall_apart_into_two_splits(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"data.yaml": "train: images\nnames: [cat]\n"}
    for number in range(40):
        name = f"{number // 4}_jpg.rf.{number:032x}"
        files |= {f"images/{name}.jpg": picture((8, 8)), f"labels/{name}.txt": LINE}
    source = write_set(tmp_path / "set", files)
    converted(source, tmp_path / "out", options(split={"train": 0.5, "val": 0.5}, check="header"))
    parts = [{name.split("_jpg")[0] for name in answers(tmp_path / "out", n)} for n in ("grounding", "grounding_val")]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 10


@pytest.mark.parametrize(("ratio", "left"), [(None, 12), (0, 0), (0.5, 2), (1, 4), (2.5, 10), (9, 12)])
def test_as_many_pictures_without_objects_stay_as_are_wanted(tmp_path: Path, ratio: float | None, left: int) -> None:
    source = _set(tmp_path, LINE, count=4, empty=12)
    report, written = converted(source, tmp_path / "out", options(negatives=ratio, check="header"))
    given = answers(tmp_path / "out")
    assert len([name for name, objects in given.items() if not objects]) == left
    assert report.samples == 4 + left == len(given)
    pictures = written["totals"]["pictures"]
    assert (pictures["kept"], pictures["left_out"], pictures["without_objects"]) == (4 + left, 12 - left, left)
    copied = {path.name for path in (tmp_path / "out" / "images").rglob("*.jpg")}
    assert copied == {name.rpartition("/")[2] for name in given}


def test_pictures_that_differ_by_their_suffix_alone_get_labels_of_their_own(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "data.yaml": "train: images\nnames: [cat, dog]\n",
        "images/a.jpg": picture(),
        "images/a.png": picture(file_format="PNG"),
        "labels/a.jpg.txt": LINE,
        "labels/a.png.txt": LINE.replace("0 ", "1 ", 1),
    }
    converted(write_set(tmp_path / "set", files), tmp_path / "out", options(to="yolo"))
    labels = {path.name: path.read_text()[0] for path in (tmp_path / "out").rglob("*.txt")}
    assert labels == {"a.txt": "0", "a_png.txt": "1"}
    _, report = converted(tmp_path / "out", tmp_path / "back")
    assert report["boxes_per_class"] == {"cat": 1, "dog": 1}


@pytest.mark.parametrize("pictures", ["copy", "link", "keep"])
def test_pictures_are_copied_linked_or_left_where_they_are(tmp_path: Path, pictures: str) -> None:
    source = _set(tmp_path)
    write_set(source, {"images/turned.jpg": picture(turned=6), "labels/turned.txt": LINE})
    converted(source, tmp_path / "out", pictures=pictures)
    plain, turned = (Path(tmp_path / "out", name) for name in answers(tmp_path / "out"))
    assert plain.stat().st_nlink == (2 if pictures == "link" else 1)
    assert plain.is_relative_to(source) == (pictures == "keep")
    assert turned.is_relative_to(tmp_path / "out")  # it is written anew in any case
    assert turned.is_file()


def test_several_processes_write_what_one_writes(tmp_path: Path) -> None:
    source = _set(tmp_path, THREE + "0 0.05 0.5 0.2 0.4\nnonsense\n", count=40, empty=5)
    write_set(source, {"images/9.jpg": picture(turned=6), "images/8.jpg": b"none", "labels/7.txt": "0 .5 .5 0 0\n"})
    for processes in (1, 2):
        converted(source, tmp_path / f"out{processes}", options(negatives=0.1, questions=2), processes=processes)
    names = sorted(path.relative_to(tmp_path / "out1") for path in (tmp_path / "out1").rglob("*") if path.is_file())
    assert len(names) > 40
    for name in names:
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()


def test_a_long_folder_is_done_in_its_order_in_however_many_processes_and_pieces(tmp_path: Path) -> None:
    source, small = _set(tmp_path, count=0), picture((8, 8))
    for folder, count in (("a", 10), ("b", 600), ("c", 300)):  # more than a chunk has, and no multiple of it
        for number in range(count):
            name = f"{folder}/{number}"
            write_set(source, {f"images/{name}.jpg": small, f"labels/{name}.txt": f"{number % 3} .5 .5 .4 .4\n"})
    write_set(source, {"images/c/x.jpg": small, "labels/b/stray.txt": LINE})
    for name, processes, split in (("one", 1, None), ("two", 2, None), ("each", 1, {"train": 1.0})):
        converted(source, tmp_path / name, options(check="none", split=split), pictures="keep", processes=processes)

    made = (tmp_path / "one" / "grounding.json").read_bytes()
    assert len(orjson.loads(made)) == 911
    for name in ("two", "each"):  # a new split looks at pictures one by one
        assert (tmp_path / name / "grounding.json").read_bytes() == made
    rows = [orjson.loads((tmp_path / name / "report.json").read_bytes())["rows"] for name in ("one", "two", "each")]
    assert rows[0] == rows[1] == rows[2]
    assert len(rows[0]) == 2


def test_there_and_back_again_costs_no_more_than_the_grid(tmp_path: Path) -> None:
    source = _set(tmp_path, "0 0.123456 0.654321 0.077777 0.033333\n2 0.5 0.5 0.9 0.9\n", count=2)
    converted(source, tmp_path / "there")
    statistics = orjson.loads((tmp_path / "there" / "statistics.json").read_bytes())
    assert "grid" in str(statistics)
    converted(tmp_path / "there", tmp_path / "back", options(to="yolo"))
    (label,) = (tmp_path / "back").rglob("0.txt")
    for before, after in zip(
        (source / "labels/0.txt").read_text().splitlines(), label.read_text().splitlines(), strict=True
    ):
        x, y, w, h = map(float, before.split()[1:])
        a, b, c, d = map(float, after.split()[1:])
        edges = ((x - w / 2, a - c / 2), (x + w / 2, a + c / 2), (y - h / 2, b - d / 2), (y + h / 2, b + d / 2))
        assert all(abs(one - other) <= 0.0005 + 1e-6 for one, other in edges)


def test_a_picture_that_nobody_looked_at_may_be_damaged_and_is_only_missing_on_the_sheet(tmp_path: Path) -> None:
    source = _set(tmp_path, count=2)
    write_set(source, {"images/0.jpg": b"no picture"})
    report, _ = converted(source, tmp_path / "out", options(check="none"))
    assert report.samples == 2
    write_set(source, {"images/1.jpg": b"no picture"})
    converted(source, tmp_path / "again", options(check="none"))
    assert (tmp_path / "again" / "contact_sheet.png").is_file()


def test_label_formats_have_their_pictures_beside_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="pictures"):
        converted(_set(tmp_path), tmp_path / "out", options(to="coco"), pictures="keep")
