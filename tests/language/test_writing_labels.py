"""The label formats: YOLO, COCO and VOC that others read, and from which the same thousandths come back."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import orjson
import pytest
import supervision
import yaml
from datasets import Dataset  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.language.made_records import CLASSES, NAMES, SIZE, edges, record, target, written
from tests.language.read_sets import read as read_set
from vlyard.errors import InvalidInput
from vlyard.formats.box import Box
from vlyard.formats.classes import Classes
from vlyard.formats.readers.coco import recognise as recognise_coco
from vlyard.formats.record import Look, Question, Record, Target
from vlyard.formats.writers.table import make_writer
from vlyard.formats.writing import Piece
from vlyard.jobs.conversion import ConversionOptions

CAT, DOG = target("cat"), target("dog", (0, 0, 0.1, 1))


def rendered(to: str, about: Record) -> dict[str, Piece]:
    writer = make_writer(ConversionOptions.model_validate({"to": to}), CLASSES, ("train", "val"))
    return {piece.file: piece for piece in writer.render(about, ())}


def yolo_boxes(about: Record) -> list[Box]:
    """The boxes of the label file, as any reader computes them."""
    (piece,) = rendered("yolo", about).values()
    rows = [line.split() for line in piece.entries[0].decode().splitlines()]
    return [Box.from_centre(*map(float, row[1:])) for row in rows]


def coco_boxes(about: Record) -> list[Box]:
    annotations = rendered("coco", about)["annotations/instances_train.json.part"].entries
    boxes = [orjson.loads(b"{" + entry)["bbox"] for entry in annotations]
    return [Box.from_pixels((x, y, x + w, y + h), about.look.width, about.look.height) for x, y, w, h in boxes]


def voc_boxes(about: Record) -> list[Box]:
    xml = next(piece for name, piece in rendered("voc", about).items() if name.endswith(".xml")).entries[0]
    found = [[float(edge.text or "") for edge in box] for box in ET.fromstring(xml).iter("bndbox")]
    return [Box.from_pixels(corners, about.look.width, about.look.height) for corners in found]


READ = {"yolo": yolo_boxes, "coco": coco_boxes, "voc": voc_boxes}
box_with_area = st.tuples(edges, edges).filter(lambda pair: all(one < two for one, two in pair))
sizes = st.tuples(st.integers(1, 8000), st.integers(1, 8000))
rows = st.tuples(*(st.one_of(st.integers(1, 10**6).map(lambda n: n / 10**6), st.floats(1e-6, 1)) for _ in range(4)))


@pytest.mark.parametrize("to", READ)
@settings(max_examples=200)
@given(st.lists(box_with_area, min_size=1, max_size=4), sizes)
@example([((0.2505, 0.7495), (0.0005, 0.0015))], (640, 480))
@example([((1 / 3, 2 / 3), (1e-12, 1.0))], (8000, 1))
def test_the_same_thousandths_come_back_and_the_box_as_close_as_matters(
    to: str, boxes: list[tuple[tuple[float, float], tuple[float, float]]], size: tuple[int, int]
) -> None:
    targets = [target("cat", (x[0], y[0], x[1], y[1])) for x, y in boxes]
    read = READ[to](record(*targets, look=Look(*size)))

    for one, back in zip(targets, read, strict=True):
        assert back.to_thousand() == one.box.to_thousand() or _hangs_on_nothing(one)
        assert all(abs(a - b) < 5e-4 for a, b in zip(back.to_relative().corners, one.box.corners, strict=True))


def _hangs_on_nothing(one: Target) -> bool:
    """Whether the box is smaller than a thousandth, and an edge lies where a thousandth ends, to the last digits."""
    x1, y1, x2, y2 = one.box.to_thousand()
    near = any(abs(edge * 1000 % 1 - 0.5) < 1e-9 for edge in one.box.corners)
    return near and (x1 == x2 or y1 == y2)


@settings(max_examples=200)
@given(rows)
def test_from_yolo_to_thousandths_and_back_moves_no_edge_by_more_than_half_a_thousandth(
    row: tuple[float, float, float, float],
) -> None:
    source = Box.from_centre(*row).clamped()
    x1, y1, x2, y2 = source.to_thousand()
    answered = target("cat", (x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000))  # what a reader makes of the answer
    (back,) = yolo_boxes(record(answered))

    assert back.to_thousand() == (x1, y1, x2, y2)
    assert all(abs(a - b) <= 0.0005 + 1e-9 for a, b in zip(back.corners, source.corners, strict=True))


def test_numbers_of_six_digits_come_back_as_they_were_written() -> None:
    row = "0.512345 0.498765 0.123456 0.234568"
    x, y, width, height = map(float, row.split())
    one = Target(0, "cat", Box.from_centre(x, y, width, height))
    (piece,) = rendered("yolo", record(one)).values()

    assert piece.entries == (f"0 {row}\n".encode(),)


# --- YOLO -----------------------------------------------------------------------------------------------------


def test_a_yolo_set_is_laid_out_as_ultralytics_reads_it(tmp_path: Path) -> None:
    writer = make_writer(ConversionOptions(to="yolo"), CLASSES, ("train", "val"))
    places = [writer.place("train", "a.jpg"), writer.place("val", "valid/images/deep/b.c.png")]
    made = [record(CAT, DOG), record(split="val", index=1)]
    moved = [
        Record(each.number, each.source, place, each.split, each.look, each.targets)
        for each, place in zip(made, places, strict=True)
    ]
    folders = written(tmp_path, moved, to="yolo")

    assert folders == {"train": "images/train", "val": "images/val"}
    assert yaml.safe_load((tmp_path / "data.yaml").read_text("utf-8")) == {**folders, "names": NAMES}
    for each in moved:  # Ultralytics turns the last /images/ into /labels/
        head, _, tail = f"/{each.picture}".rpartition("/images/")
        assert (tmp_path / f"{head}/labels/{tail}".lstrip("/")).with_suffix(".txt").is_file()
    assert (
        tmp_path / "labels/train/a.txt"
    ).read_text() == "0 0.500000 0.500000 0.500000 0.500000\n1 0.050000 0.500000 0.100000 1.000000\n"
    assert (tmp_path / "labels/val/valid/_images/deep/b.c.txt").read_bytes() == b""


def test_no_two_pictures_of_a_yolo_set_get_the_same_place() -> None:
    writer = make_writer(ConversionOptions(to="yolo"), CLASSES, ("train",))
    names = ["images/a.jpg", "_images/a.jpg", "__images/a.jpg", "a.jpg", "Images/a.jpg", "images2/a.jpg"]
    places = {writer.place("train", name) for name in names}

    assert len(places) == len(names)
    assert all(place.split("/").count("images") == 1 for place in places)


def test_names_that_yaml_could_misread_stay_names(tmp_path: Path) -> None:
    classes = Classes({0: "no", 1: "12", 2: "a: b # c", 3: "猫"})
    written(tmp_path, [record(CAT)], classes, to="yolo")

    assert yaml.safe_load((tmp_path / "data.yaml").read_text("utf-8"))["names"] == classes.names


# --- COCO -----------------------------------------------------------------------------------------------------


def test_a_coco_file_holds_its_split(tmp_path: Path) -> None:
    outlined = Target(2, "bird", Box.relative((0, 0, 0.5, 0.5)), ((0, 0), (0.5, 0), (0.25, 0.5)))
    made = [record(CAT, DOG, index=4), record(name="deep/b.jpg", index=7), record(outlined, split="val", index=9)]
    files = written(tmp_path, made, to="coco")
    train, val = (orjson.loads((tmp_path / files[split]).read_bytes()) for split in ("train", "val"))

    assert files["train"] == "annotations/instances_train.json"
    assert [path.name for path in (tmp_path / "annotations").iterdir() if path.suffix != ".json"] == []
    assert train["images"] == [
        {"id": 5, "file_name": "a.jpg", "width": 640, "height": 480},
        {"id": 8, "file_name": "deep/b.jpg", "width": 640, "height": 480},
    ]
    assert train["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "bird"}]
    assert train["annotations"][0] == {
        "id": 1, "image_id": 5, "category_id": 1, "bbox": [160, 120, 320, 240], "area": 76800, "segmentation": [],
        "iscrowd": 0,
    }  # fmt: skip
    assert [each["id"] for each in train["annotations"]] == [1, 2]
    assert val["annotations"][0]["segmentation"] == [[0, 0, 320, 0, 160, 240]]


def test_a_crowd_in_two_parts_stays_one_with_what_else_is_said_of_it(tmp_path: Path) -> None:
    part, other = ((0, 0), (0.5, 0), (0.25, 0.5)), ((0.5, 0.5), (0.75, 0.5), (0.75, 1))
    said = {"iscrowd": 1, "occluded": True}
    crowd = Target(2, "bird", Box.relative((0, 0, 0.75, 1)), part, (), said, (other,))
    files = written(tmp_path, [record(crowd)], to="coco")
    (found,) = orjson.loads((tmp_path / files["train"]).read_bytes())["annotations"]

    assert found["segmentation"] == [[0, 0, 320, 0, 160, 240], [320, 240, 480, 240, 480, 480]]
    assert (found["iscrowd"], found["attributes"]) == (1, {"occluded": True})
    (back,) = read_set(recognise_coco, tmp_path, look=Look(*SIZE)).targets
    assert (back.polygon, back.more_outlines, dict(back.attributes)["iscrowd"]) == (part, (other,), 1)


def test_a_coco_file_without_objects_is_one_too(tmp_path: Path) -> None:
    files = written(tmp_path, [record()], to="coco")

    assert orjson.loads((tmp_path / files["train"]).read_bytes())["annotations"] == []


def test_datasets_loads_the_lists_of_a_coco_file(tmp_path: Path) -> None:
    files = written(tmp_path / "out", [record(CAT, DOG), record(name="b.jpg", index=1)], to="coco")
    for field, count in (("images", 2), ("annotations", 2), ("categories", 3)):
        loaded: Any = Dataset.from_json(
            str(tmp_path / "out" / files["train"]), field=field, cache_dir=str(tmp_path / "cache")
        )
        assert len(loaded) == count


# --- VOC ------------------------------------------------------------------------------------------------------


def test_a_voc_set_has_a_file_for_each_picture_and_lists_of_them(tmp_path: Path) -> None:
    flagged = target('<b> & "c"\x01', attributes={"occluded": True, "truncated": 0, "colour": "red"})
    writer = make_writer(ConversionOptions(to="voc"), CLASSES, ("train", "val"))
    made = [
        Record(index, "", writer.place("train", name), "train", Look(640, 480), targets)
        for index, (name, targets) in enumerate({"a.jpg": (CAT, flagged), "deep/b.jpg": ()}.items())
    ]
    written(tmp_path, made, to="voc")
    root = ET.parse(tmp_path / "Annotations/a.xml").getroot()
    cat, odd = root.iter("object")

    assert (tmp_path / "ImageSets/Main/train.txt").read_text("utf-8") == "a\ndeep/b\n"
    assert (root.findtext("folder"), root.findtext("filename")) == ("JPEGImages", "a.jpg")
    assert [root.findtext(f"size/{side}") for side in ("width", "height")] == ["640", "480"]
    assert [(edge.tag, edge.text) for edge in cat.iter() if edge.tag[1:] in {"min", "max"}] == [
        ("xmin", "160.0"), ("ymin", "120.0"), ("xmax", "480.0"), ("ymax", "360.0"),
    ]  # fmt: skip
    assert odd.findtext("name") == '<b> & "c"\N{REPLACEMENT CHARACTER}'
    assert (odd.findtext("occluded"), odd.findtext("truncated"), odd.find("colour")) == ("1", "0", None)
    assert (tmp_path / "Annotations/deep/b.xml").is_file()
    assert not list(ET.parse(tmp_path / "Annotations/deep/b.xml").getroot().iter("object"))


# --- all of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["coco", "voc"])
def test_pixels_of_a_picture_that_nobody_looked_at_cannot_be_written(to: str) -> None:
    with pytest.raises(InvalidInput, match=r"check: .*a\.jpg in pixels.*choose `check: header`"):
        rendered(to, record(CAT, look=Look()))


@pytest.mark.parametrize("to", READ)
def test_a_label_format_is_written_whatever_is_asked(to: str) -> None:
    writer = make_writer(ConversionOptions.model_validate({"to": to}), CLASSES, ("train",))

    assert writer.render(record(CAT), [Question("Where?", (), "[]")]) == writer.render(record(CAT), ())
    assert writer.unique_stems == (to != "coco")


def test_another_library_reads_the_same_boxes_from_yolo_and_coco(tmp_path: Path) -> None:
    made = record(CAT, DOG, name="train/a.jpg", look=Look(8, 6))  # as large as the pictures of `written`
    for to in ("yolo", "coco"):
        written(tmp_path / to, [made], to=to)
    yolo = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "yolo/images/train"), str(tmp_path / "yolo/labels/train"), str(tmp_path / "yolo/data.yaml")
    )
    coco = supervision.DetectionDataset.from_coco(
        str(tmp_path / "coco/images"), str(tmp_path / "coco/annotations/instances_train.json")
    )

    for read in (yolo, coco):
        ((_, _, found),) = read
        assert read.classes == list(NAMES.values())
        assert found.class_id is not None
        assert found.class_id.tolist() == [0, 1]
        assert found.xyxy.ravel().tolist() == pytest.approx([2, 1.5, 6, 4.5, 0, 0, 0.8, 6])
