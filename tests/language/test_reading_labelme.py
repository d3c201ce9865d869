"""LabelMe's JSON: every shape becomes a target, or stands in the account with its place and its reason."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.language.read_sets import Result, nine_formats, put, read, recognised
from vlyard.formats.readers.labelme import recognise
from vlyard.formats.reading import Stray, Wanted
from vlyard.formats.record import Keypoint, Look
from vlyard.formats.tree import Tree

BOX: dict[str, Any] = {"label": "cat", "points": [[10, 20], [40, 60]], "shape_type": "rectangle"}


def label(*shapes: Any, picture: object = "a.jpg", **more: Any) -> dict[str, Any]:
    return {
        "version": "5.4.1", "flags": {}, "shapes": shapes or [BOX], "imagePath": picture, "imageData": None,
        "imageHeight": 100, "imageWidth": 100, **more,
    }  # fmt: skip


def _one(root: Path, shape: Any) -> Result:
    result = read(recognise, put(root, {"a.jpg": b"", "a.json": label(shape)}))
    assert result.accounted == 1
    return result


def test_the_real_set_gives_the_same_integers_as_its_yolo_files(shared_data: Path) -> None:
    given_boxes, yolo = nine_formats(recognise, shared_data, "gts/labelme_format")
    assert given_boxes == yolo
    assert (len(yolo), sum(map(len, yolo.values()))) == (100, 273)


@pytest.mark.parametrize(
    ("kind", "points", "corners", "outline", "places"),
    [
        ("rectangle", [[40, 60], [10, 20]], (0.1, 0.2, 0.4, 0.6), 0, 0),
        ("rectangle", [[10, 20], [40, 20], [40, 60], [10, 60]], (0.1, 0.2, 0.4, 0.6), 0, 0),
        ("polygon", [[10, 20], [40, 20], [40, 60]], (0.1, 0.2, 0.4, 0.6), 3, 0),
        (None, [[10, 20], [40, 20], [40, 60]], (0.1, 0.2, 0.4, 0.6), 3, 0),
        (None, [[10, 20], [40, 60]], (0.1, 0.2, 0.4, 0.6), 0, 0),
        ("circle", [[50, 50], [53, 54]], (0.45, 0.45, 0.55, 0.55), 0, 0),
        ("line", [[10, 20], [40, 60]], (0.1, 0.2, 0.4, 0.6), 0, 0),
        ("linestrip", [[10, 20], [20, 60], [40, 20]], (0.1, 0.2, 0.4, 0.6), 0, 0),
        ("point", [[10, 20]], (0.1, 0.2, 0.1, 0.2), 0, 1),
        ("points", [[10, 20], [40, 60]], (0.1, 0.2, 0.4, 0.6), 0, 2),
        ("mask", [[10, 20], [40, 60]], (0.1, 0.2, 0.4, 0.6), 0, 0),
        ("rotation", [[25, 20], [40, 40], [25, 60], [10, 40]], (0.1, 0.2, 0.4, 0.6), 4, 0),
    ],
)
def test_every_shape_gives_its_box(
    tmp_path: Path, kind: str | None, points: list[Any], corners: tuple[float, ...], outline: int, places: int
) -> None:
    (target,) = _one(tmp_path, {"label": "cat", "points": points, "shape_type": kind}).targets
    assert target.box.corners == pytest.approx(corners)
    assert (len(target.polygon), len(target.keypoints), target.is_point) == (outline, places, kind == "point")


def test_a_point_is_a_place(tmp_path: Path) -> None:
    (target,) = _one(tmp_path, {"label": "eye", "points": [[10, 20]], "shape_type": "point"}).targets
    assert target.keypoints == (Keypoint(0.1, 0.2),)


def test_flags_group_and_description_are_attributes(tmp_path: Path) -> None:
    more = {"group_id": 3, "description": "old", "flags": {"blurred": True}, "attributes": {"colour": "red"}}
    (target,) = _one(tmp_path, {**BOX, **more, "difficult": False, "mask": "aGk=", "line_color": None}).targets
    assert target.attributes == {
        "group_id": 3, "description": "old", "blurred": True, "colour": "red", "difficult": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "codes", "kept"),
    [
        (5, ["malformed"], 0),
        ({**BOX, "label": ""}, ["no_label"], 0),
        ({**BOX, "label": None}, ["no_label"], 0),
        ({**BOX, "label": 5}, [], 1),
        ({**BOX, "points": None}, ["malformed"], 0),
        ({**BOX, "points": []}, ["shape_unknown"], 0),
        ({**BOX, "points": [[1, 2]]}, ["shape_unknown"], 0),
        ({**BOX, "points": [[1, 2], [3]]}, ["malformed"], 0),
        ({**BOX, "points": [[1, 2], [3, "x"]]}, ["not_a_number"], 0),
        ({**BOX, "points": [[1, 2], [3, float("nan")]]}, ["not_finite"], 0),
        ({**BOX, "shape_type": "spiral"}, ["shape_unknown"], 0),
        ({**BOX, "shape_type": ["a"]}, ["shape_unknown"], 0),
        ({**BOX, "shape_type": "circle", "points": [[50, 50], [50, 50]]}, ["no_area"], 0),
        ({**BOX, "shape_type": "line", "points": [[10, 50], [50, 50]]}, ["no_area"], 0),
        ({**BOX, "points": [[10, 20], [105, 60]]}, ["outside"], 1),
        ({**BOX, "points": [[900, 20], [950, 60]]}, ["far_outside"], 0),
    ],
)
def test_every_fault_of_a_shape_is_named(tmp_path: Path, shape: Any, codes: list[str], kept: int) -> None:
    result = _one(tmp_path, shape)
    assert (result.codes, len(result.targets)) == (codes, kept)
    assert all(str(row.place) == "a.json:shapes[0]" for row in result.rows)


@pytest.mark.parametrize(
    ("name", "written", "picture"),
    [
        ("a.json", "a.jpg", "a.jpg"),
        ("labels/a.json", "..\\images\\a.jpg", "images/a.jpg"),
        ("labels/a.json", "C:\\Users\\me\\a.jpg", "images/a.jpg"),
        ("a.json", "renamed.jpg", "a.jpg"),
        ("a.json", None, "a.jpg"),
        ("b.json", "a.jpg", "a.jpg"),
        ("train/json/a.json", "a.png", "train/images/a.jpg"),
    ],
)
def test_pictures_are_found_by_path_and_then_by_stem(
    tmp_path: Path, name: str, written: str | None, picture: str
) -> None:
    result = read(recognise, put(tmp_path, {picture: b"", name: label(picture=written)}))
    assert (list(result.units), len(result.targets)) == ([picture], 1)


def test_a_picture_that_only_its_label_file_holds_is_taken_from_there(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (100, 100), "red").save(picture, "PNG")
    data = base64.b64encode(picture.getvalue()).decode()
    root = put(
        tmp_path / "set",
        {
            "val/a.json": label(picture="gone.jpg", imageData=data),
            "val/b.json": label(picture="lost.jpg", imageData="@"),
            "val/c.json": label(picture="far.jpg"),
        },
    )
    (tmp_path / "scratch").mkdir()
    reader = recognised(recognise, root, tmp_path / "scratch")
    unit, *strays = reader.units()
    assert not isinstance(unit, Stray)
    assert (unit.name, unit.split, unit.label) == ("val/a.png", "val", str(root / "val/a.json"))
    assert Image.open(unit.path).size == (100, 100)
    assert Path(unit.path).is_relative_to(tmp_path / "scratch")
    found = {each.place.file: each.finding.fault.code for each in strays if isinstance(each, Stray)}
    assert found == {"val/b.json": "unreadable_picture", "val/c.json": "picture_missing"}
    assert reader.splits == ("val",)


def test_pictures_beside_labelled_ones_show_nothing(tmp_path: Path) -> None:
    result = read(recognise, put(tmp_path, {"a.jpg": b"", "b.jpg": b"", "a.json": label(), "other/c.jpg": b""}))
    assert {name: len(reading.targets) for name, reading in result.readings.items()} == {"a.jpg": 1, "b.jpg": 0}
    assert result.left_over == [("other/c.jpg", "unlisted")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (json.dumps(label())[:-30], "not JSON"),
        (json.dumps(label()).encode().replace(b"cat", b"c\xff"), "UTF-8"),
        (json.dumps(label()).encode("utf-16"), "UTF-8"),
        ({"shapes": 5, "imagePath": "b.jpg"}, "no list of shapes"),
        ('{"imagePath": "b.jpg", "shapes": ' + "[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_file_is_refused_by_name_and_the_others_are_read(tmp_path: Path, content: object, says: str) -> None:
    put(tmp_path, {"a.jpg": b"", "a.json": label(), "b.jpg": b"", "b.json": content})
    result = read(recognise, tmp_path)
    assert (len(result.targets), result.codes) == (1, ["unreadable_label"])
    (row,) = result.rows
    assert str(row.place) == "b.json"
    assert says in row.findings[0].reason


@pytest.mark.parametrize("more", [{"imageHeight": None, "imageWidth": None}, {"version": None}, {"flags": None}])
def test_older_versions_and_odd_ones_are_read(tmp_path: Path, more: dict[str, Any]) -> None:
    assert len(read(recognise, put(tmp_path, {"a.jpg": b"", "a.json": label(**more)})).targets) == 1


def test_a_long_line_before_the_shapes_changes_nothing(tmp_path: Path) -> None:
    content = {"imageData": "A" * 200_000, "imagePath": "a.jpg", "shapes": [BOX], "imageHeight": 100}
    put(tmp_path, {"a.jpg": b"", "a.json": content, "labels.txt": "cat"})
    assert len(read(recognise, tmp_path).targets) == 1


def test_folders_say_the_split(tmp_path: Path) -> None:
    put(tmp_path, {"train/a.jpg": b"", "train/a.json": label(), "val/b.jpg": b"", "val/b.json": label(picture="b.jpg")})
    assert read(recognise, tmp_path).splits == {"train/a.jpg": "train", "val/b.jpg": "val"}


def test_labels_of_the_picture_as_stored_are_turned_with_it(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": b"", "a.json": label(imageWidth=200)})
    result = read(recognise, tmp_path, look=Look(100, 200, 6))
    assert result.targets[0].box.corners == pytest.approx((0.4, 0.05, 0.8, 0.2))
    assert result.codes == ["labels_unturned"]


@pytest.mark.parametrize("content", ["{}", "[]", '{"images": [{"id": 1}]}', '{"messages": []}'])
def test_other_files_are_not_taken_for_it(tmp_path: Path, content: str) -> None:
    put(tmp_path, {"a.jpg": b"", "a.json": content})
    assert recognise(Tree(tmp_path.resolve()), Wanted(scratch=tmp_path)) is None


number = st.integers(0, 499)


@given(st.lists(st.tuples(number, number, number, number), min_size=1, max_size=5, unique=True))
@settings(max_examples=25)
def test_boxes_that_are_written_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[int, int, int, int]]
) -> None:
    root = tmp_path_factory.mktemp("set")
    corners = [(x, y, x + width + 1, y + height + 1) for x, y, width, height in boxes]
    shapes = [{**BOX, "points": [[x1, y1], [x2, y2]]} for x1, y1, x2, y2 in corners]
    put(root, {"a.jpg": b"", "a.json": label(*shapes, imageWidth=1000, imageHeight=1000)})
    result = read(recognise, root, policy="strict", look=Look(1000, 1000))
    assert [target.box.to_thousand() for target in result.targets] == corners
    assert result.rows == []
