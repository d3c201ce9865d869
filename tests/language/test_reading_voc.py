"""Pascal VOC's XML: every object becomes a target, or stands in the account with its place and its reason."""

from math import pi
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.language.made_records import CLASSES, NAMES, SIZE, record, target, written
from tests.language.read_sets import Result, nine_formats, put, read
from vlyard.formats.readers.voc import recognise
from vlyard.formats.reading import Wanted
from vlyard.formats.record import Look
from vlyard.formats.tree import Tree

BOX = "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>60</ymax></bndbox>"
CAT = f"<object><name>cat</name>{BOX}</object>"


def xml(objects: str = CAT, filename: str = "a.jpg", width: object = 100, height: object = 100) -> str:
    return (
        f"<annotation><filename>{filename}</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )


def thing(inside: str, name: str = "cat") -> str:
    return f"<object><name>{name}</name>{inside}</object>"


def _one(root: Path, inside: str, name: str = "cat") -> Result:
    result = read(recognise, put(root, {"a.jpg": b"", "a.xml": xml(thing(inside, name))}))
    assert result.accounted == 1
    return result


@pytest.mark.parametrize("folder", ["pascalvoc_format", "imagenet_format"])
def test_the_real_set_gives_the_same_integers_as_its_yolo_files(shared_data: Path, folder: str) -> None:
    given_boxes, yolo = nine_formats(recognise, shared_data, f"gts/{folder}")
    assert given_boxes == yolo
    assert (len(yolo), sum(map(len, yolo.values()))) == (100, 273)


def test_a_box_is_taken_as_it_stands_with_its_attributes(tmp_path: Path) -> None:
    more = (
        "<pose>Left</pose><truncated>1</truncated><difficult>0</difficult><occluded>true</occluded><score>0.5</score>"
        "<attributes><attribute><name>colour</name><value>red</value></attribute></attributes>"
        f"<part><name>head</name>{BOX}</part>"
    )
    (target,) = _one(tmp_path, BOX + more).targets
    assert (target.label, target.box.corners) == ("cat", (0.1, 0.2, 0.4, 0.6))
    assert target.attributes == {
        "pose": "Left", "truncated": 1, "difficult": 0, "occluded": True, "score": 0.5, "colour": "red",
    }  # fmt: skip


POLYGON = "<polygon><x1>10</x1><y1>20</y1><x2>40</x2><y2>20</y2><x3>40</x3><y3>60.5</y3></polygon>"
POINTS = "<polygon><pt><x>10</x><y>20</y></pt><pt><x>40</x><y>20</y></pt><pt><x>40</x><y>60.5</y></pt></polygon>"


@pytest.mark.parametrize("polygon", [POLYGON, POINTS])
def test_a_polygon_gives_an_outline_and_where_there_is_none_the_box(tmp_path: Path, polygon: str) -> None:
    (target,) = _one(tmp_path, polygon).targets
    assert target.polygon == ((0.1, 0.2), (0.4, 0.2), (0.4, 0.605))
    assert target.box.corners == (0.1, 0.2, 0.4, 0.605)
    (target,) = _one(tmp_path, polygon + BOX).targets
    assert target.box.corners == (0.1, 0.2, 0.4, 0.6)


def test_a_turned_box_gives_its_corners_and_the_box_around_them(tmp_path: Path) -> None:
    turned = f"<robndbox><cx>50</cx><cy>50</cy><w>40</w><h>20</h><angle>{pi / 2}</angle></robndbox>"
    (target,) = _one(tmp_path, turned).targets
    assert target.box.corners == pytest.approx((0.4, 0.3, 0.6, 0.7))
    assert target.polygon[0] == pytest.approx((0.6, 0.3))  # its left top corner, a quarter turn clockwise


@pytest.mark.parametrize(
    ("inside", "name", "codes", "kept"),
    [
        (BOX.replace("10", "1e1"), "cat", [], 1),
        (BOX.replace("10", " 10.0 "), "cat", [], 1),
        (BOX.replace("10", "ten"), "cat", ["not_a_number"], 0),
        (BOX.replace("10", "10,5"), "cat", ["not_a_number"], 0),
        (BOX.replace("10", ""), "cat", ["not_a_number"], 0),
        (BOX.replace("<xmin>10</xmin>", ""), "cat", ["not_a_number"], 0),
        (BOX.replace("10", "nan"), "cat", ["not_finite"], 0),
        (BOX.replace("10", "40"), "cat", ["no_area"], 0),
        (BOX.replace("10", "70"), "cat", ["swapped_corners"], 1),
        (BOX.replace("10", "-5"), "cat", ["outside"], 1),
        (BOX.replace("40", "4000"), "cat", ["far_outside"], 0),
        ("", "cat", ["no_box"], 0),
        (BOX, "", ["no_label"], 0),
        ("<polygon><x1>1</x1><y1>2</y1></polygon>", "cat", ["shape_unknown"], 0),
        (BOX + "<polygon><x1>1</x1><y1>2</y1></polygon>", "cat", ["part_unusable"], 1),
    ],
)
def test_every_fault_of_an_object_is_named(tmp_path: Path, inside: str, name: str, codes: list[str], kept: int) -> None:
    result = _one(tmp_path, inside, name)
    assert (result.codes, len(result.targets)) == (codes, kept)
    assert all(str(row.place) == "a.xml:object[0]" for row in result.rows)


@pytest.mark.parametrize(("width", "height"), [("", ""), (0, 0), ("wide", 5), (-5, 100)])
def test_without_a_size_the_pictures_own_is_taken(tmp_path: Path, width: object, height: object) -> None:
    put(tmp_path, {"a.jpg": b"", "a.xml": xml(width=width, height=height)})
    (target,) = read(recognise, tmp_path, look=Look(200, 100)).targets
    assert target.box.corners == (0.05, 0.2, 0.2, 0.6)


def test_another_shape_than_the_pictures_is_refused_with_all_objects(tmp_path: Path) -> None:
    result = read(recognise, put(tmp_path, {"a.jpg": b"", "a.xml": xml(CAT + CAT)}), look=Look(200, 100))
    assert (result.codes, result.accounted, result.targets) == (["size_contradicts"], 2, [])


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>'
    "<annotation><filename>&c;</filename></annotation>"
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not XML"),
        (xml()[:-20], "not XML"),
        (xml().encode().replace(b"cat", b"c\xff"), "not XML"),
        (xml().replace("<annotation>", '<?xml version="1.0" encoding="klingon"?><annotation>'), "not XML"),
        (BOMB, "entities"),
        (OUTSIDE, "entities"),
        ("<annotation>" * 100_000, "not XML"),
    ],
)
def test_a_broken_file_is_refused_by_name_and_the_others_are_read(tmp_path: Path, content: object, says: str) -> None:
    put(tmp_path, {"a.jpg": b"", "a.xml": xml(), "b.jpg": b"", "b.xml": content})
    result = read(recognise, tmp_path)
    assert (len(result.targets), result.codes) == (1, ["unreadable_label"])
    (row,) = result.rows
    assert str(row.place) == "b.xml"
    assert says in row.findings[0].reason


def test_other_encodings_are_read(tmp_path: Path) -> None:
    content = ('<?xml version="1.0" encoding="UTF-16"?>' + xml(thing(BOX, "Käfer"))).encode("utf-16")
    put(tmp_path, {"a.jpg": b"", "a.xml": content, "b.jpg": b"", "b.xml": b"\xef\xbb\xbf" + xml(filename="b").encode()})
    assert {target.label for target in read(recognise, tmp_path).targets} == {"Käfer", "cat"}


@pytest.mark.parametrize(
    ("label", "filename", "picture"),
    [
        ("Annotations/a.xml", "a.jpg", "JPEGImages/a.jpg"),
        ("Annotations/train/a.xml", "a.jpg", "JPEGImages/train/a.jpg"),
        ("annotations/xmls/a.xml", "a.jpg", "images/a.jpg"),
        ("train/labels/a.xml", "a.jpg", "train/images/a.jpg"),
        ("a.xml", "C:\\me\\a.jpg", "a.jpg"),
        ("a.xml", "n01440764_1", "n01440764_1.JPEG"),
        ("a.xml", "a.jpg", "a.png"),
        ("a.xml", "renamed.jpg", "a.jpg"),
        ("a.xml", "", "a.jpg"),
        ("b.xml", "a.jpg", "a.jpg"),
        ("Annotations/a.xml", "a.jpg", "somewhere/else/a.jpg"),
    ],
)
def test_pictures_are_found_by_file_name_and_then_by_stem(
    tmp_path: Path, label: str, filename: str, picture: str
) -> None:
    result = read(recognise, put(tmp_path, {picture: b"", label: xml(filename=filename)}))
    assert (list(result.units), len(result.targets)) == ([picture], 1)


def test_files_that_all_name_one_picture_get_the_pictures_with_their_own_stems(tmp_path: Path) -> None:
    files = {f"{name}{suffix}": b"" if suffix == ".jpg" else xml() for name in "abc" for suffix in (".jpg", ".xml")}
    result = read(recognise, put(tmp_path, files))
    assert [reading.annotations for reading in result.readings.values()] == [1, 1, 1]
    assert list(result.units) == ["a.jpg", "b.jpg", "c.jpg"]


def test_the_second_file_of_a_picture_and_one_without_a_picture_are_accounted_for(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": b"", "x/a.xml": xml(), "y/a.xml": xml(CAT * 3), "z/gone.xml": xml(filename="gone.jpg")})
    result = read(recognise, tmp_path)
    assert result.left_over == [("y/a.xml", "listed_twice"), ("z/gone.xml", "picture_missing")]
    assert result.accounted == 1 + 3 + 1


def test_pictures_beside_labelled_ones_show_nothing_and_those_elsewhere_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, {"JPEGImages/a.jpg": b"", "JPEGImages/b.jpg": b"", "masks/a.png": b"", "Annotations/a.xml": xml()})
    result = read(recognise, tmp_path)
    assert [unit.label is None for unit in result.units.values()] == [False, True]
    assert result.left_over == [("masks/a.png", "unlisted")]


def test_folders_say_the_split(tmp_path: Path) -> None:
    files = {f"{split}/{split}{end}": xml(filename=f"{split}.jpg") if end == ".xml" else b"" for split in
             ("train", "valid", "test") for end in (".xml", ".jpg")}  # fmt: skip
    result = read(recognise, put(tmp_path, {**files, "README.roboflow.txt": "", "valid/negative.jpg": b""}))
    assert result.splits == {
        "train/train.jpg": "train", "valid/valid.jpg": "val", "test/test.jpg": "test", "valid/negative.jpg": "val",
    }  # fmt: skip
    assert (result.reader.layout, result.reader.splits) == ("roboflow", ("train", "val", "test"))


def test_lists_say_the_split_and_what_they_leave_out_is_accounted_for(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "none")
    pictures: dict[str, object] = {f"V/JPEGImages/{name}.jpg": b"" for name in names}
    labels = {f"V/Annotations/{name}.xml": xml(filename=f"{name}.jpg") for name in names[:4]}
    lists = {
        "V/ImageSets/Main/train.txt": "a\nnone\n",
        "V/ImageSets/Main/val.txt": "b 1\n\nc\na\n",
        "V/ImageSets/Main/test.txt": "secret\n",
        "V/ImageSets/Main/trainval.txt": "a\nb\nc\n",
        "V/ImageSets/Main/cat_train.txt": "a 1\n",
    }
    result = read(recognise, put(tmp_path, {**pictures, **labels, **lists}))
    assert {Path(name).stem: split for name, split in result.splits.items()} == {
        "a": "train", "none": "train", "b": "val", "c": "val",
    }  # fmt: skip
    assert sorted(result.left_over) == [
        ("V/Annotations/d.xml", "unlisted"),
        ("V/ImageSets/Main/test.txt:1", "unlabelled_split"),
        ("V/ImageSets/Main/val.txt:4", "listed_twice"),
        ("V/JPEGImages/d.jpg", "unlisted"),
    ]
    assert result.accounted == 4
    assert result.reader.layout == "imagesets"


@pytest.mark.parametrize("content", ["", "<annotations><image/></annotations>", "<svg/>", "annotation"])
def test_other_files_are_not_taken_for_it(tmp_path: Path, content: str) -> None:
    put(tmp_path, {"a.jpg": b"", "a.xml": content})
    assert recognise(Tree(tmp_path.resolve()), Wanted(scratch=tmp_path)) is None


number = st.integers(0, 499)


@given(st.lists(st.tuples(number, number, number, number), min_size=1, max_size=5, unique=True))
@settings(max_examples=25)
def test_boxes_that_are_written_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[int, int, int, int]]
) -> None:
    root = tmp_path_factory.mktemp("set")
    corners = [(x, y, x + width + 1, y + height + 1) for x, y, width, height in boxes]
    names = ("xmin", "ymin", "xmax", "ymax")
    objects = [
        thing(f"<bndbox>{''.join(f'<{n}>{v}</{n}>' for n, v in zip(names, box, strict=True))}</bndbox>")
        for box in corners
    ]
    put(root, {"a.jpg": b"", "a.xml": xml("".join(objects), width=1000, height=1000)})
    result = read(recognise, root, policy="strict", look=Look(1000, 1000))
    assert [target.box.to_thousand() for target in result.targets] == corners
    assert result.rows == []


def test_what_our_writer_writes_is_read_back(tmp_path: Path) -> None:
    objects = [target(label, (0.1, n / 10, 0.5, n / 10 + 0.05), class_id=n) for n, label in enumerate(NAMES.values())]
    records = [record(*objects), record(objects[0], name="b.jpg", split="val", index=1), record(name="c.jpg", index=2)]
    written(tmp_path / "set", records, CLASSES, to="voc")
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
