"""What the options leave out stands in the report, counts are of what was written, and places are checked first."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.language.test_conversion_faults import account
from tests.language.yolo_sets import LINE, answers, converted, options, picture, write_set
from vlyard.errors import InvalidInput

YAML = "train: images\nnames: [cat, dog]\n"
SMALL = "0 0.5 0.5 0.05 0.05\n"
DOG = "1 0.5 0.5 0.5 0.5\n"
THIN = "0 0.5003 0.5 0.0001 0.4\n"


def _set(folder: Path, labels: dict[str, str | None], **more: str | bytes) -> Path:
    files: dict[str, str | bytes] = {"data.yaml": YAML, **more}
    for name, rows in labels.items():
        files[f"images/{name}.jpg"] = picture()
        if rows is not None:
            files[f"labels/{name}.txt"] = rows
    return write_set(folder / "set", files)


def _told(folder: Path, report: dict[str, Any]) -> dict[tuple[str, str], tuple[str, int]]:
    """File and code of each row -> its status and its annotations."""
    rows = account(folder, report)
    return {(row["file"], code): (row["status"], row["annotations"]) for row in rows for code in row["codes"]}


def test_objects_and_pictures_that_options_leave_out_are_named_and_make_no_false_negative(tmp_path: Path) -> None:
    source = _set(tmp_path, {"a": LINE + SMALL + DOG, "dogs": DOG + DOG.replace("0.5", "0.4"), "small": SMALL})
    _, report = converted(source, tmp_path / "out", options(classes=("cat",), min_size=6))

    assert {name: len(found) for name, found in answers(tmp_path / "out").items()} == {
        "images/images/a.jpg": 1,
        "images/images/dogs.jpg": 0,  # no cat is in it: true
    }
    assert _told(tmp_path / "out", report) == {
        ("images/a.jpg", "too_small"): ("ignored", 1),
        ("images/a.jpg", "other_class"): ("ignored", 1),
        ("images/dogs.jpg", "other_class"): ("ignored", 2),
        ("images/small.jpg", "too_small"): ("ignored", 1),
        ("images/small.jpg", "emptied"): ("ignored", 0),  # there is a cat in it
    }
    totals = report["totals"]
    assert (totals["annotations"]["left_out"], totals["pictures"]["left_out"]) == (5, 1)


def test_pictures_without_objects_that_are_too_many_are_named_and_not_said_to_be_written(tmp_path: Path) -> None:
    turned = {f"images/n{number}.jpg": picture(turned=6) for number in range(5)}
    source = _set(tmp_path, {"a": LINE, "b": LINE}, **turned)
    said: list[tuple[float | None, str]] = []
    chosen = options(negatives=1, questions=3, prompts=("One?", "Two?", "Three?"))
    report, written = converted(source, tmp_path / "out", chosen, lambda *told: said.append(told))

    told = _told(tmp_path / "out", written)
    assert report.samples == 3 * (2 + 2)
    assert sum(code == "spare_negative" for _, code in told) == 3
    assert sum(code == "turned" for _, code in told) == 2  # those that were written
    assert {told[each] for each in told if each[1] == "no_label_file"} == {("kept", 0)}
    assert said[-1] == (1.0, "7 of 7 pictures")
    assert all(fraction is None or 0 <= fraction <= 1 for fraction, _ in said)
    converted(source, tmp_path / "two", chosen, processes=2)
    assert (tmp_path / "two" / "report.json").read_bytes() == (tmp_path / "out" / "report.json").read_bytes()


def test_what_the_tutorial_does_not_take_is_counted_as_it_is_written(tmp_path: Path) -> None:
    source = _set(tmp_path, {"a": LINE, "none": None, "thin": THIN})
    chosen = options(to="tutorial", ask="each", prompt="Find {class}.")
    report, written = converted(source, tmp_path / "out", chosen)
    samples = orjson.loads((tmp_path / "out" / "grounding.json").read_bytes())

    assert (report.samples, report.boxes) == (2, 2) == (len(samples), written["totals"]["boxes"])
    assert written["totals"]["pictures"]["left_out"] == 1
    assert _told(tmp_path / "out", written) == {
        ("images/none.jpg", "no_label_file"): ("kept", 0),
        ("images/none.jpg", "no_sample"): ("ignored", 0),
        ("images/thin.jpg", "no_area_left"): ("kept", 0),
    }


def test_a_box_under_the_grid_is_written_so_that_the_way_back_finds_it(tmp_path: Path) -> None:
    source = _set(tmp_path, {"thin": THIN})
    _, report = converted(source, tmp_path / "out")
    assert _told(tmp_path / "out", report) == {("images/thin.jpg", "under_the_grid"): ("fixed", 0)}
    _, back = converted(tmp_path / "out", tmp_path / "back", options("strict", to="yolo"))
    assert back["totals"]["annotations"]["kept"] == 1


def test_what_a_label_format_cannot_hold_is_told(tmp_path: Path) -> None:
    source = _set(tmp_path, {"a": "0 0.1 0.1 0.9 0.1 0.9 0.9\n" + LINE})
    _, report = converted(source, tmp_path / "out", options(to="yolo"))
    assert _told(tmp_path / "out", report)["images/a.jpg", "not_in_format"] == ("kept", 0)
    _, report = converted(source, tmp_path / "coco", options(to="coco"))
    assert ("images/a.jpg", "not_in_format") not in _told(tmp_path / "coco", report)


def test_pictures_of_two_splits_that_differ_by_their_suffix_alone_keep_their_own_labels(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "data.yaml": "train: one.txt\nval: two.txt\nnames: [cat, dog]\n",
        "one.txt": "images/a.jpg\n",
        "two.txt": "images/a.png\n",
        "images/a.jpg": picture(),
        "images/a.png": picture(file_format="PNG"),
        "labels/a.jpg.txt": LINE,
        "labels/a.png.txt": DOG,
    }
    converted(write_set(tmp_path / "set", files), tmp_path / "out", options(to="voc"))
    texts = [path.read_text() for path in sorted((tmp_path / "out" / "Annotations").rglob("*.xml"))]
    assert [("cat" in text, "dog" in text) for text in texts] == [(True, False), (False, True)]


def test_a_picture_that_is_not_there_is_refused_alone_where_nobody_looked(tmp_path: Path) -> None:
    source = _set(tmp_path, {"a": LINE})
    (source / "images/gone.jpg").symlink_to("nowhere.jpg")
    write_set(source, {"labels/gone.txt": LINE})
    _, report = converted(source, tmp_path / "out", options(check="none"))
    assert _told(tmp_path / "out", report) == {("images/gone.jpg", "unreadable_picture"): ("refused", 1)}


def test_a_linked_picture_is_what_its_link_leads_to(tmp_path: Path) -> None:
    source = _set(tmp_path, {})
    write_set(source, {"store/b.jpg": picture(), "labels/b.txt": LINE})
    (source / "images").mkdir()
    (source / "images/b.jpg").symlink_to("../store/b.jpg")
    converted(source, tmp_path / "out", pictures="link")
    (written,) = answers(tmp_path / "out")
    assert not (tmp_path / "out" / written).is_symlink()
    assert (tmp_path / "out" / written).samefile(source / "store/b.jpg")


@pytest.mark.parametrize("name", ["report", "Statistics", "dataset_info"])
def test_a_name_that_the_conversion_needs_itself_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the conversion's own"):
        options(name=name)


def test_the_place_for_the_output_is_checked_before_anything_is_done(tmp_path: Path) -> None:
    source = _set(tmp_path, {"a": LINE})
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    converted(source, tmp_path / "link")
    assert (tmp_path / "real" / "report.json").is_file()
    for place in (Path("/proc"), tmp_path / "set" / "data.yaml" / "out", source / "data.yaml"):
        with pytest.raises(InvalidInput, match="output"):
            converted(source, place)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        converted(source, tmp_path / "file" / "out")


def test_an_id_beyond_all_sense_is_refused_where_nothing_names_the_classes(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"a.jpg": picture(), "a.txt": LINE + "1000000000 0.5 0.5 0.2 0.2\n"}
    _, report = converted(write_set(tmp_path / "set", files), tmp_path / "out", options(to="yolo"))
    assert _told(tmp_path / "out", report) == {("a.txt", "class_out_of_range"): ("refused", 1)}
