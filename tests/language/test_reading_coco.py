"""COCO's JSON: every annotation becomes a target, or stands in the account with its place and its reason."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.language.made_records import CLASSES, NAMES, SIZE, record, target, written
from tests.language.read_sets import Result, nine_formats, put, read, recognised
from vlyard.errors import InvalidInput
from vlyard.formats.readers.coco import recognise
from vlyard.formats.reading import Stray, Wanted
from vlyard.formats.record import Keypoint, Look
from vlyard.formats.tree import Tree

CATS = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog", "keypoints": ["nose", "tail"]}]
BOX = {"image_id": 1, "category_id": 7, "bbox": [10, 20, 30, 40]}


def image(number: int = 1, name: str = "a.jpg", **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 100, "height": 100, **more}


def coco(annotations: list[Any], images: list[Any] | None = None, categories: list[Any] = CATS) -> dict[str, Any]:
    return {"images": [image()] if images is None else images, "annotations": annotations, "categories": categories}


def _one(root: Path, annotation: Any, look: Look = Look(100, 100), **size: Any) -> Result:
    put(root, {"a.jpg": b"", "labels.json": coco([annotation], [image(**size)])})
    result = read(recognise, root, look=look)
    assert result.accounted == 1
    return result


@pytest.mark.parametrize("version", ["coco_format_v1", "coco_format_v2"])
def test_the_real_set_gives_the_same_integers_as_its_yolo_files(shared_data: Path, version: str) -> None:
    given_boxes, yolo = nine_formats(recognise, shared_data, f"gts/{version}")
    assert given_boxes == yolo
    assert (len(yolo), sum(map(len, yolo.values()))) == (100, 273)


def test_a_box_keeps_its_class_and_its_attributes(tmp_path: Path) -> None:
    said = {**BOX, "id": 3, "area": 9, "iscrowd": 0, "score": 0.5, "attributes": {"occluded": True, "deep": {}}}
    (target,) = _one(tmp_path, said).targets
    assert (target.class_id, target.label) == (7, "dog")
    assert target.box.corners == (0.1, 0.2, 0.4, 0.6)
    assert target.attributes == {"iscrowd": 0, "score": 0.5, "occluded": True}


@pytest.mark.parametrize(
    ("said", "corners", "outline"),
    [
        ({"segmentation": [[10, 10, 50, 10, 50, 50]]}, (0.1, 0.1, 0.5, 0.5), 3),
        ({"segmentation": [10, 10, 50, 10, 50, 50]}, (0.1, 0.1, 0.5, 0.5), 3),
        ({"segmentation": [[0, 0, 9, 0, 9, 9], [20, 20, 80, 20, 80, 80, 20, 80]]}, (0, 0, 0.8, 0.8), 4),
        ({"bbox": [10, 20, 30, 40], "segmentation": {"counts": [1, 2], "size": [100, 100]}}, (0.1, 0.2, 0.4, 0.6), 0),
        ({"bbox": [10, 20, 30, 40], "segmentation": []}, (0.1, 0.2, 0.4, 0.6), 0),
    ],
)
def test_outlines_and_masks(tmp_path: Path, said: dict[str, Any], corners: tuple[float, ...], outline: int) -> None:
    result = _one(tmp_path, {"image_id": 1, "category_id": 1, **said})
    (target,) = result.targets
    codes = ["mask_left_out"] if isinstance(said["segmentation"], dict) else []
    assert (target.box.corners, len(target.polygon), result.codes) == (corners, outline, codes)
    assert [row.status for row in result.rows] == ["kept" for _ in codes]


def test_keypoints_have_names_and_visibility_and_those_that_are_not_labelled_are_none(tmp_path: Path) -> None:
    (target,) = _one(tmp_path, {**BOX, "keypoints": [50, 50, 2, 60, 60, 1]}).targets
    assert target.keypoints == (Keypoint(0.5, 0.5, "nose", True), Keypoint(0.6, 0.6, "tail", False))
    (target,) = _one(tmp_path, {**BOX, "keypoints": [50, 50, 2, 0, 0, 0]}).targets
    assert [point.name for point in target.keypoints] == ["nose"]


@pytest.mark.parametrize(
    ("change", "codes", "kept"),
    [
        ({"bbox": [10, 20, "30", "40"]}, ["number_as_text"], 1),
        ({"bbox": [10, 20, "wide", 40]}, ["not_a_number"], 0),
        ({"bbox": [10, 20, None, 40]}, ["not_a_number"], 0),
        ({"bbox": [10, 20, True, 40]}, ["not_a_number"], 0),
        ({"bbox": [10, 20, float("nan"), 40]}, ["not_finite"], 0),
        ({"bbox": [10, 20, float("inf"), 40]}, ["not_finite"], 0),
        ({"bbox": [10, 20, 10**400, 40]}, ["not_finite"], 0),
        ({"bbox": [10, 20, 30]}, ["malformed"], 0),
        ({"bbox": "10 20 30 40"}, ["malformed"], 0),
        ({"bbox": None}, ["no_box"], 0),
        ({"bbox": [10, 20, 0, 40]}, ["no_area"], 0),
        ({"bbox": [10, 20, -5, 40]}, ["no_area"], 0),
        ({"bbox": [75, 20, 30, 40]}, ["outside"], 1),
        ({"bbox": [900, 20, 30, 40]}, ["far_outside"], 0),
        ({"category_id": 9}, ["class_out_of_range"], 0),
        ({"category_id": None}, ["class_out_of_range"], 0),
        ({"segmentation": [[1, 2, 3]]}, ["part_unusable"], 1),
        ({"segmentation": "polygon"}, ["part_unusable"], 1),
        ({"keypoints": [1, 2]}, ["part_unusable"], 1),
        ({"keypoints": [500, 50, 2, 0, 0, 0]}, ["keypoint_outside"], 1),
        ({"category_id": "7"}, [], 1),
        ({"image_id": "1"}, [], 1),
        ({"image_id": 1.0}, [], 1),
    ],
)
def test_every_fault_of_an_annotation_is_named(
    tmp_path: Path, change: dict[str, Any], codes: list[str], kept: int
) -> None:
    result = _one(tmp_path, {**BOX, **change})
    assert (result.codes, len(result.targets)) == (codes, kept)
    assert all(row.place.entry == "annotations[0]" for row in result.rows)


@pytest.mark.parametrize("annotation", [3, None, "text", [1, 2]])
def test_what_is_no_annotation_is_accounted_for(tmp_path: Path, annotation: Any) -> None:
    assert _one(tmp_path, annotation).left_over == [("labels.json:annotations[0]", "image_unknown")]


def test_annotations_without_an_image_and_of_missing_pictures_are_accounted_for(tmp_path: Path) -> None:
    images = [image(), image(2, "gone.jpg"), image(3, "", coco_url=5), {"id": 4}]
    annotations = [BOX, {**BOX, "image_id": 2}, {**BOX, "image_id": 2, "category_id": 1}, {**BOX, "image_id": 99}]
    put(tmp_path, {"a.jpg": b"", "b.jpg": b"", "x/labels.json": coco(annotations, images)})
    result = read(recognise, tmp_path)
    assert result.accounted == 4
    assert result.left_over == [
        ("x/labels.json:images[1]", "picture_missing"),
        ("x/labels.json:images[2]", "entry_unusable"),
        ("x/labels.json:images[3]", "entry_unusable"),
        ("b.jpg", "unlisted"),
        ("x/labels.json:annotations[3]", "image_unknown"),
    ]
    assert [stray.annotations for stray in result.strays] == [2, 0, 0, 0, 1]


def test_an_image_without_annotations_shows_nothing(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": b"", "b.jpg": b"", "labels.json": coco([BOX], [image(), image(2, "b.jpg")])})
    result = read(recognise, tmp_path)
    assert [len(reading.targets) for reading in result.readings.values()] == [1, 0]
    assert result.rows == []


def test_images_with_the_same_id_are_refused_with_their_annotations(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": b"", "b.jpg": b"", "labels.json": coco([BOX, BOX], [image(), image(1, "b.jpg")])})
    result = read(recognise, tmp_path)
    assert (result.units, result.accounted) == ({}, 2)
    assert [code for _, code in result.left_over] == ["id_twice", "id_twice", "unlisted", "unlisted"]


def test_two_images_of_one_file_are_joined(tmp_path: Path) -> None:
    annotations = [BOX, {**BOX, "image_id": 2, "category_id": 1}]
    put(tmp_path, {"a.jpg": b"", "labels.json": coco(annotations, [image(), image(2)])})
    result = read(recognise, tmp_path)
    assert [target.label for target in result.targets] == ["dog", "cat"]
    assert result.codes == ["listed_again"]


SPLITS = [
    ("annotations/instances_train2017.json", "train2017/", "annotations/instances_val2017.json", "val2017/"),
    ("train/_annotations.coco.json", "train/", "valid/_annotations.coco.json", "valid/"),
    ("train.json", "images/", "val.json", "images/"),
    ("annotations/train.json", "images/train/", "annotations/val.json", "images/val/"),
]


@pytest.mark.parametrize(("train", "first", "val", "second"), SPLITS)
def test_splits_are_named_by_files_and_folders(tmp_path: Path, train: str, first: str, val: str, second: str) -> None:
    # The same file name in both splits, where folders differ: each split finds its own.
    names = ("a.jpg", "a.jpg" if first != second else "b.jpg")
    put(
        tmp_path,
        {
            first + names[0]: b"",
            second + names[1]: b"",
            train: coco([BOX], [image(name=names[0])]),
            val: coco([BOX], [image(name=names[1])]),
        },
    )
    result = read(recognise, tmp_path)
    assert result.splits == {first + names[0]: "train", second + names[1]: "val"}
    assert (result.strays, result.reader.splits) == ([], ("train", "val"))


@pytest.mark.parametrize(
    ("written", "at"),
    [
        ("a.jpg", "images/a.jpg"),
        ("images/a.jpg", "images/a.jpg"),
        ("C:\\Users\\me\\set\\images\\a.jpg", "images/a.jpg"),
        ("/home/me/a.jpg", "pictures/deep/a.jpg"),
        ("../images/a.jpg", "images/a.jpg"),
        ("a.JPG", "images/a.jpg"),
        ("a.png", "images/a.jpg"),
        ("caf\u00e9.jpg", "images/cafe\u0301.jpg"),
    ],
)
def test_pictures_are_found_where_files_say_or_by_their_names(tmp_path: Path, written: str, at: str) -> None:
    put(tmp_path, {at: b"", "annotations/x.json": coco([BOX], [image(name=written)])})
    assert list(read(recognise, tmp_path).units) == [at]


def test_no_picture_is_given_to_an_entry_that_only_shares_its_name(tmp_path: Path) -> None:
    images = [image(1, "cam1/0.jpg"), image(2, "cam2/0.jpg")]
    put(tmp_path, {"cam1/0.jpg": b"", "x.json": coco([BOX, {**BOX, "image_id": 2}], images)})
    result = read(recognise, tmp_path)
    assert (len(result.targets), result.left_over) == (1, [("x.json:images[1]", "picture_missing")])


def test_two_pictures_of_one_name_are_ambiguous(tmp_path: Path) -> None:
    put(tmp_path, {"p/a.jpg": b"", "q/a.jpg": b"", "x.json": coco([BOX], [image(name="z/a.jpg")])})
    assert read(recognise, tmp_path).left_over[0] == ("x.json:images[0]", "picture_ambiguous")


# --- sizes and EXIF -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "corners"),
    [
        (5, (0.4, 0.1, 0.8, 0.25)),
        (6, (0.2, 0.1, 0.6, 0.25)),
        (7, (0.2, 0.75, 0.6, 0.9)),
        (8, (0.4, 0.75, 0.8, 0.9)),
    ],
)
def test_labels_of_the_picture_as_stored_are_turned_with_it(
    tmp_path: Path, orientation: int, corners: tuple[float, ...]
) -> None:
    look = Look(100, 200, orientation)  # stored with 200 × 100
    result = _one(tmp_path, {**BOX, "bbox": [20, 40, 30, 40]}, look, width=200)
    (target,) = result.targets
    assert target.box.corners == pytest.approx(corners)
    assert result.codes == ["labels_unturned"]


@pytest.mark.parametrize(
    ("size", "look", "codes", "kept"),
    [
        ((100, 100), Look(0, 0), [], 1),
        ((None, None), Look(100, 100), [], 1),
        ((0, 0), Look(100, 100), [], 1),
        ((None, None), Look(0, 0), ["size_unknown"], 0),
        ((100, 200), Look(50, 100), ["size_differs"], 1),
        ((100, 200), Look(200, 100), ["size_contradicts"], 0),
        ((100, 200), Look(100, 200, 6), [], 1),
        ((100, 100), Look(100, 100, 6), [], 1),
        ((100, 200), Look(100, 200, 3), [], 1),
        ((400, 200), Look(100, 200, 6), ["size_differs", "labels_unturned"], 1),
    ],
)
def test_the_size_that_a_file_says_is_checked_against_the_picture(
    tmp_path: Path, size: tuple[Any, Any], look: Look, codes: list[str], kept: int
) -> None:
    result = _one(tmp_path, BOX, look, width=size[0], height=size[1])
    assert (result.codes, len(result.targets)) == (codes, kept)


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(coco([BOX]))[:-40], "not JSON"),
        (json.dumps(coco([BOX])).encode().replace(b"dog", b"d\xff"), "not JSON"),
        (json.dumps(coco([BOX]))[:-1] + f', "x": "{"y" * 70_000}", "z": ' + "[" * 10**6, "nested too deeply"),
        (coco([BOX], []), "no images"),
        (coco([BOX], categories=[{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]), "two categories"),
        (coco([BOX], categories=[{"id": 1}]), "no name"),
        (coco([BOX], categories=["cat"]), "no name"),
    ],
)
def test_a_broken_description_is_refused_by_name(tmp_path: Path, content: object, says: str) -> None:
    put(tmp_path, {"a.jpg": b"", "labels.json": content})
    with pytest.raises(InvalidInput, match=f"labels.json.*{says}"):
        recognised(recognise, tmp_path, tmp_path)


def test_two_files_with_the_same_pictures_are_refused_until_one_is_named(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": b"", "x/instances.json": coco([BOX]), "x/keypoints.json": coco([BOX])})
    with pytest.raises(InvalidInput, match=r"x/instances.json, x/keypoints.json: both .*`labels`"):
        recognised(recognise, tmp_path, tmp_path)
    assert len(read(recognise, tmp_path, labels="x/instances.json").targets) == 1


def test_a_list_of_detections_is_refused_with_the_reason_where_it_is_named(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": b"", "dets.json": [{**BOX, "score": 0.5}]})
    assert recognise(Tree(tmp_path.resolve()), Wanted(scratch=tmp_path)) is None
    with pytest.raises(InvalidInput, match=r"dets.json: it is a bare list of detections"):
        recognise(Tree(tmp_path.resolve()), Wanted(labels="dets.json", scratch=tmp_path))


def test_a_place_of_labels_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="labels: nowhere is not in the source"):
        recognised(recognise, put(tmp_path, {"a.jpg": b""}), tmp_path, labels="nowhere")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"null", "not JSON", b"\xff\xfe{\x00", {"shapes": []}, {"images": ["a.jpg"]}, "[" * 9999],
)
def test_other_files_are_not_taken_for_it(tmp_path: Path, content: object) -> None:
    put(tmp_path, {"a.jpg": b"", "other.json": content})
    assert recognise(Tree(tmp_path.resolve()), Wanted(scratch=tmp_path)) is None


def test_captions_beside_boxes_are_left_out_and_the_evidence_says_so(tmp_path: Path) -> None:
    captions = {"images": [image()], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    put(tmp_path, {"a.jpg": b"", "captions.json": captions, "instances.json": coco([BOX])})
    assert any("captions.json" in said for said in read(recognise, tmp_path).reader.evidence)


def test_files_with_different_ids_are_joined_by_class_names(tmp_path: Path) -> None:
    other = coco([{**BOX, "category_id": 1}], [image(name="b.jpg")], [{"id": 1, "name": "dog"}])
    put(tmp_path, {"a.jpg": b"", "b.jpg": b"", "train.json": coco([BOX]), "val.json": other})
    result = read(recognise, tmp_path)
    assert result.reader.classes.names == {0: "cat", 1: "dog"}
    assert [(target.class_id, target.label) for target in result.targets] == [(1, "dog"), (1, "dog")]


def test_a_byte_order_mark_and_windows_ends_change_nothing(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(coco([BOX]), indent=1).replace("\n", "\r\n").encode()
    put(tmp_path, {"a.jpg": b"", "labels.json": content})
    assert len(read(recognise, tmp_path).targets) == 1


def test_an_annotation_that_is_nested_without_end_is_refused_alone(tmp_path: Path) -> None:
    deep = json.dumps(coco([BOX, {**BOX, "category_id": 1, "bbox": "DEEP"}])).replace('"DEEP"', "[" * 300 + "]" * 300)
    put(tmp_path, {"a.jpg": b"", "labels.json": deep})
    result = read(recognise, tmp_path)
    assert (len(result.targets), result.accounted) == (1, 2)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        images = [image(number, f"{number}.jpg") for number in range(count)]
        annotations = [{**BOX, "image_id": number % count, "category_id": 1 + 6 * (number // count)} for number in
                       range(2 * count)]  # fmt: skip
        root = put(tmp_path / str(count), {"labels.json": coco(annotations, images)})
        (tmp_path / f"s{count}").mkdir()
        tracemalloc.start()
        reader = recognised(recognise, root, tmp_path / f"s{count}")
        assert sum(isinstance(each, Stray) for each in reader.units()) == count
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(10)
    assert peak(3000) < 1.3 * peak(1000)


side = st.floats(0, 500).map(lambda value: round(value, 3))


@given(st.lists(st.tuples(side, side, side, side), min_size=1, max_size=5, unique=True))
@settings(max_examples=25)
def test_boxes_that_are_written_are_read_back(tmp_path_factory: pytest.TempPathFactory, boxes: list[Any]) -> None:
    root = tmp_path_factory.mktemp("set")
    annotations = [{**BOX, "bbox": [x, y, width + 1, height + 1]} for x, y, width, height in boxes]
    put(root, {"a.jpg": b"", "labels.json": coco(annotations, [image(width=1002, height=1002)])})
    result = read(recognise, root, policy="strict", look=Look(1002, 1002))
    back = [target.box.pixels(1002, 1002) for target in result.targets]
    assert back == [pytest.approx((x, y, x + width + 1, y + height + 1), abs=1e-9) for x, y, width, height in boxes]
    assert result.rows == []


def test_what_our_writer_writes_is_read_back(tmp_path: Path) -> None:
    objects = [target(label, (0.1, n / 10, 0.5, n / 10 + 0.05), class_id=n) for n, label in enumerate(NAMES.values())]
    records = [record(*objects), record(objects[0], name="b.jpg", split="val", index=1), record(name="c.jpg", index=2)]
    written(tmp_path / "set", records, CLASSES, to="coco")
    result = read(recognise, tmp_path / "set", policy="strict", look=Look(*SIZE))
    assert (result.rows, result.strays) == ([], [])
    boxes = {Path(name).name: [each.box.to_thousand() for each in reading.targets]
             for name, reading in result.readings.items()}  # fmt: skip
    assert boxes == {
        "a.jpg": [each.box.to_thousand() for each in objects], "b.jpg": [objects[0].box.to_thousand()], "c.jpg": [],
    }  # fmt: skip
    assert {Path(name).name: split for name, split in result.splits.items()} == {
        "a.jpg": "train", "b.jpg": "val", "c.jpg": "train",
    }  # fmt: skip
