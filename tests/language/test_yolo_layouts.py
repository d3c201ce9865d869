"""Each layout is recognised by what is in it, and the evidence says how."""

from pathlib import Path

import pytest

from tests.language.yolo_sets import LINE, picture, write_set
from vlyard.errors import InvalidInput
from vlyard.formats.readers.yolo import YoloReader, described, undescribed
from vlyard.formats.reading import Stray, Unit, Wanted
from vlyard.formats.tree import Tree

PICTURE = picture()


def _read(root: Path, wanted: Wanted = Wanted()) -> YoloReader:
    return described(Tree(root), wanted) or undescribed(Tree(root), wanted)


def _recognised(root: Path, files: dict[str, str | bytes], wanted: Wanted = Wanted()) -> YoloReader:
    return _read(write_set(root, files), wanted)


def _pairs(reader: YoloReader) -> dict[str, tuple[str, str | None]]:
    """Picture -> (split, label)."""
    name = reader.dataset.tree.name
    found = [unit for unit in reader.units() if isinstance(unit, Unit)]
    assert all(unit.name == name(unit.path) for unit in found)
    return {unit.name: (unit.split, name(unit.label) if unit.label else None) for unit in found}


def _strays(reader: YoloReader) -> set[tuple[str, int | None, str]]:
    strays = [item for item in reader.units() if isinstance(item, Stray)]
    return {(stray.place.file, stray.place.line, stray.finding.fault.code) for stray in strays}


PARALLEL: dict[str, str | bytes] = {
    "images/train/a.jpg": PICTURE,
    "images/val/b.jpg": PICTURE,
    "labels/train/a.txt": LINE,
    "labels/val/b.txt": LINE,
}
PARALLEL_PAIRS = {
    "images/train/a.jpg": ("train", "labels/train/a.txt"),
    "images/val/b.jpg": ("val", "labels/val/b.txt"),
}


@pytest.mark.parametrize(
    "names",
    ["[cat, no]", "{1: no, 0: cat}", "\n  0: cat\n  1: no", "\n- cat\n- no"],
    ids=["list", "dict", "block", "dashes"],
)
def test_an_ultralytics_set_is_read_with_its_folders_and_names(tmp_path: Path, names: str) -> None:
    dataset = _recognised(
        tmp_path, {**PARALLEL, "data.yaml": f"path: .\ntrain: images/train\nval: images/val\ntest:\nnames: {names}\n"}
    )
    assert dataset.layout == "ultralytics"
    assert dataset.classes.names == {0: "cat", 1: "no"}  # YAML would read the word as False
    assert _pairs(dataset) == PARALLEL_PAIRS
    assert not _strays(dataset)
    assert "data.yaml" in dataset.evidence[0]


def test_a_path_that_is_on_another_machine_is_found_by_its_last_parts(tmp_path: Path) -> None:
    yaml = "path: C:\\data\\cats\ntrain: /home/me/cats/images/train\nval: ..\\images\\val\nnames: [cat]\n"
    dataset = _recognised(tmp_path, {**PARALLEL, "data.yaml": yaml})
    assert _pairs(dataset) == PARALLEL_PAIRS
    assert any("does not resolve; images/train" in sentence for sentence in dataset.evidence)


def test_splits_may_be_lists_of_pictures_or_several_folders(tmp_path: Path) -> None:
    dataset = _recognised(
        tmp_path,
        {
            **PARALLEL,
            "more/images/c.jpg": PICTURE,
            "more/labels/c.txt": LINE,
            "lists/train.txt": "./../images/train/a.jpg\n\nimages/train/gone.jpg\n",
            "data.yaml": "train: [lists/train.txt, more/images]\nval: images/val\nnames: [cat]\n",
        },
    )
    assert _pairs(dataset) == {**PARALLEL_PAIRS, "more/images/c.jpg": ("train", "more/labels/c.txt")}
    assert _strays(dataset) == {("lists/train.txt", 3, "picture_missing")}


ROBOFLOW: dict[str, str | bytes] = {
    f"{split}/{kind}/{split}.{ending}": content
    for split in ("train", "valid", "test")
    for kind, ending, content in (("images", "jpg", PICTURE), ("labels", "txt", LINE))
}
ROBOFLOW_YAML = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['cat']\n"


@pytest.mark.parametrize("inside", ["", "my project/"])
def test_a_roboflow_export_is_read_although_its_paths_do_not_resolve(tmp_path: Path, inside: str) -> None:
    files = {f"{inside}{name}": content for name, content in {**ROBOFLOW, "data.yaml": ROBOFLOW_YAML}.items()}
    dataset = _recognised(tmp_path, files)
    assert dataset.layout == "roboflow"
    assert _pairs(dataset) == {
        f"{inside}{folder}/images/{folder}.jpg": (split, f"{inside}{folder}/labels/{folder}.txt")
        for folder, split in (("train", "train"), ("valid", "val"), ("test", "test"))
    }
    assert not _strays(dataset)
    assert any("does not resolve" in sentence for sentence in dataset.evidence)


DARKNET: dict[str, str | bytes] = {
    "data/img/a.jpg": PICTURE,
    "data/img/a.txt": LINE,
    "data/obj.names": "cat\ndog",
    "data/obj.data": "classes= 2\ntrain  = data/train.txt\nvalid = data/train.txt\nnames = data/obj.names\n",
    "data/train.txt": "data/img/a.jpg\n",
}


@pytest.mark.parametrize("written", ["data/img/a.jpg", "img/a.jpg", "/home/me/darknet/data/img/a.jpg", "x\\img\\a.jpg"])
def test_a_darknet_set_is_read_from_wherever_its_list_was_written(tmp_path: Path, written: str) -> None:
    dataset = _recognised(tmp_path, {**DARKNET, "data/train.txt": f"{written}\n"})
    assert dataset.layout == "darknet"
    assert dataset.classes.names == {0: "cat", 1: "dog"}
    assert _pairs(dataset) == {"data/img/a.jpg": ("train", "data/img/a.txt")}
    assert not _strays(dataset)
    assert any("same list" in sentence for sentence in dataset.evidence)


def test_the_folder_of_a_darknet_set_may_itself_be_the_root(tmp_path: Path) -> None:
    dataset = _recognised(tmp_path, {name.removeprefix("data/"): content for name, content in DARKNET.items()})
    assert _pairs(dataset) == {"img/a.jpg": ("train", "img/a.txt")}


def test_a_listed_picture_that_was_moved_away_is_found_by_name_and_keeps_its_label(tmp_path: Path) -> None:
    moved = {name: content for name, content in DARKNET.items() if not name.endswith(".jpg")}
    dataset = _recognised(tmp_path, {**moved, "photos/deep/a.jpg": PICTURE})
    assert _pairs(dataset) == {"photos/deep/a.jpg": ("train", "data/img/a.txt")}
    assert not _strays(dataset)


def test_a_name_that_two_pictures_have_is_refused_and_not_guessed(tmp_path: Path) -> None:
    moved = {name: content for name, content in DARKNET.items() if not name.endswith(".jpg")}
    dataset = _recognised(tmp_path, {**moved, "one/a.jpg": PICTURE, "two/a.jpg": PICTURE})
    assert not _pairs(dataset)
    assert ("data/train.txt", 1, "picture_ambiguous") in _strays(dataset)
    assert ("data/img/a.txt", None, "orphan_label") in _strays(dataset)


@pytest.mark.parametrize("names_file", ["classes.txt", "_darknet.labels", "obj.names"])
def test_pictures_with_labels_beside_them_are_read_with_their_names_file(tmp_path: Path, names_file: str) -> None:
    dataset = _recognised(
        tmp_path, {"a.jpg": PICTURE, "a.txt": LINE, "b.png": PICTURE, names_file: "cat\r\ndog\r\n\r\n"}
    )
    assert dataset.layout == "same_folder"
    assert dataset.classes.names == {0: "cat", 1: "dog"}
    assert _pairs(dataset) == {"a.jpg": ("train", "a.txt"), "b.png": ("train", None)}
    assert not _strays(dataset)


def test_without_any_names_file_classes_are_called_by_their_ids(tmp_path: Path) -> None:
    dataset = _recognised(tmp_path, {"a.jpg": PICTURE, "a.txt": LINE})
    assert dataset.classes.names is None
    assert any("class_0" in sentence for sentence in dataset.evidence)


def test_images_and_labels_folders_are_paired_without_a_description(tmp_path: Path) -> None:
    dataset = _recognised(
        tmp_path, {**PARALLEL, "images/train/images/d.jpg": PICTURE, "images/train/labels/d.txt": LINE}
    )
    assert _pairs(dataset)["images/train/a.jpg"] == ("train", "labels/train/a.txt")
    assert _pairs(dataset)["images/train/images/d.jpg"] == ("train", "images/train/labels/d.txt")


def test_labels_without_a_picture_and_pictures_without_a_split_are_named(tmp_path: Path) -> None:
    dataset = _recognised(
        tmp_path,
        {
            **PARALLEL,
            "labels/train/ghost.txt": LINE,
            "labels/train/deeper/ghost.txt": LINE,
            "images/left/c.jpg": PICTURE,
            "data.yaml": "train: images/train\nval: images/val\ntest: images/test\nnames: [cat]\n",
        },
    )
    assert _strays(dataset) == {
        ("labels/train/ghost.txt", None, "orphan_label"),
        ("labels/train/deeper/ghost.txt", None, "orphan_label"),
        ("images/left/c.jpg", None, "unlisted"),
        ("data.yaml", None, "split_missing"),
    }


def test_a_letter_to_the_reader_is_no_orphan_label(tmp_path: Path) -> None:
    dataset = _recognised(
        tmp_path, {"a.jpg": PICTURE, "a.txt": LINE, "README.txt": "These are cats.", "lost.txt": LINE}
    )
    assert _strays(dataset) == {("README.txt", None, "not_labels"), ("lost.txt", None, "orphan_label")}


def test_a_picture_that_two_splits_name_is_read_once(tmp_path: Path) -> None:
    dataset = _recognised(tmp_path, {**PARALLEL, "data.yaml": "train: images/train\nval: images\nnames: [cat]\n"})
    assert _pairs(dataset) == PARALLEL_PAIRS
    assert _strays(dataset) == {("images/train/a.jpg", None, "listed_twice")}


def test_paths_never_lead_out_of_the_data_set(tmp_path: Path) -> None:
    write_set(tmp_path, {"secret/images/s.jpg": PICTURE, "secret/list.txt": "a"})
    yaml = f"path: {tmp_path / 'secret'}\ntrain: ../secret/images\nval: {tmp_path}/secret/list.txt\nnames: [cat]\n"
    dataset = _recognised(tmp_path / "set", {"data.yaml": yaml, "inside/a.jpg": PICTURE})
    assert not _pairs(dataset)
    assert _strays(dataset) == {("data.yaml", None, "split_missing"), ("inside/a.jpg", None, "unlisted")}


def test_what_archivers_leave_behind_is_not_looked_at(tmp_path: Path) -> None:
    dataset = _recognised(
        tmp_path, {"a.jpg": PICTURE, "a.txt": LINE, "__MACOSX/._a.jpg": b"x", "._a.jpg": b"x", ".git/b.jpg": PICTURE}
    )
    assert set(_pairs(dataset)) == {"a.jpg"}


def test_a_link_to_a_parent_folder_is_walked_once(tmp_path: Path) -> None:
    write_set(tmp_path, {"deep/a.jpg": PICTURE, "deep/a.txt": LINE})
    (tmp_path / "deep" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert set(_pairs(_read(tmp_path))) == {"deep/a.jpg"}


@pytest.mark.parametrize(
    ("yaml", "complaint"),
    [
        ("train: images\nnames: [cat\n", r"data\.yaml:\d+"),
        ("train: images\nnames: 7\n", "names"),
        ("train: images\nnames: {cat: 0}\n", "cat"),
        ("train: images\nnames: [[a, b]]\n", "names"),
        ("train: images\nnames: &a [*a]\n", r"data\.yaml:2"),
        ("train: {x: y}\nnames: [cat]\n", "train"),
        ("train: images\nnames: " + "[" * 1500, r"data\.yaml"),
    ],
)
def test_a_broken_description_is_refused_with_its_place(tmp_path: Path, yaml: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        _recognised(tmp_path, {"data.yaml": yaml, "images/a.jpg": PICTURE})


def test_two_descriptions_side_by_side_are_refused_and_both_named(tmp_path: Path) -> None:
    yaml = "train: images\nnames: [cat]\n"
    with pytest.raises(InvalidInput, match=r"one/data\.yaml, two/data\.yaml"):
        _recognised(tmp_path, {"one/data.yaml": yaml, "two/data.yaml": yaml})


def test_yaml_files_that_describe_something_else_do_not_disturb(tmp_path: Path) -> None:
    files = {
        "data.yaml": "train: images/train\nval: images/val\nnames: [cat]\n",
        "hyp.yaml": "lr0: 0.01\n",
        "x.yaml": "{{",
    }
    assert _recognised(tmp_path, {**PARALLEL, **files}).layout == "ultralytics"


@pytest.mark.parametrize(
    ("pictures", "labels"),
    [
        ("images", "labels"),
        ("img", "labels"),
        ("JPEGImages", "labels"),
        ("train/image", "train/label"),
        ("train_images", "train_labels"),
        ("photos", "marked"),
        ("street/photos", "boxes/of/street"),
    ],
)
def test_parallel_trees_are_paired_whatever_they_are_called(tmp_path: Path, pictures: str, labels: str) -> None:
    files: dict[str, str | bytes] = {
        f"{pictures}/a.jpg": PICTURE,
        f"{pictures}/b.jpg": PICTURE,
        f"{labels}/a.txt": LINE,
    }
    reader = _recognised(tmp_path, files)
    assert _pairs(reader) == {
        f"{pictures}/a.jpg": ("train", f"{labels}/a.txt"),
        f"{pictures}/b.jpg": ("train", None),
    }
    assert f"labels lie in {labels}" in reader.evidence
    assert not _strays(reader)


def test_a_label_that_has_its_own_picture_is_not_given_to_a_stranger_of_the_same_name(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "train/images/1.jpg": PICTURE,
        "train/labels/1.txt": LINE,
        "test/photos/1.jpg": PICTURE,
    }
    assert _pairs(_recognised(tmp_path, files))["test/photos/1.jpg"] == ("train", None)


def test_two_labels_that_may_both_be_a_pictures_are_refused_until_one_folder_is_named(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"photos/a.jpg": PICTURE, "first/a.txt": LINE, "second/a.txt": LINE}
    assert _strays(_recognised(tmp_path, files)) >= {("photos/a.jpg", None, "label_ambiguous")}
    assert _pairs(_read(tmp_path, Wanted(labels="second"))) == {"photos/a.jpg": ("train", "second/a.txt")}
    with pytest.raises(InvalidInput, match="third"):
        _read(tmp_path, Wanted(labels="third"))


@pytest.mark.parametrize("label", ["a.TXT", "a.jpg.txt"])
def test_labels_with_unusual_endings_are_found(tmp_path: Path, label: str) -> None:
    reader = _recognised(tmp_path, {"images/a.jpg": PICTURE, f"labels/{label}": LINE})
    assert _pairs(reader) == {"images/a.jpg": ("train", f"labels/{label}")}
    assert not _strays(reader)


def test_letters_that_two_systems_write_differently_are_the_same_name(tmp_path: Path) -> None:
    composed, taken_apart = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
    files: dict[str, str | bytes] = {f"images/{composed}.jpg": PICTURE, f"labels/{taken_apart}.txt": LINE}
    reader = _recognised(tmp_path, files)
    assert _pairs(reader) == {f"images/{composed}.jpg": ("train", f"labels/{taken_apart}.txt")}
    assert not _strays(reader)


def test_a_pose_set_says_how_many_keypoints_its_rows_have(tmp_path: Path) -> None:
    yaml = "train: images\nnames: [cat]\nkpt_shape: [2, 3]\nkpt_names:\n  0: [nose, tail]\n"
    reader = _recognised(tmp_path, {"data.yaml": yaml, "images/a.jpg": PICTURE})
    assert (reader.rows.keypoints, reader.rows.keypoint_names) == ((2, 3), ("nose", "tail"))
    with pytest.raises(InvalidInput, match="kpt_shape"):
        _recognised(tmp_path, {"data.yaml": yaml.replace("[2, 3]", "[2, 9]")})


@pytest.mark.parametrize(("row", "place"), [("0 0.5 0.6 0.2 0.1 0.93", "last"), ("0 0.93 0.5 0.6 0.2 0.1", "second")])
def test_where_the_confidence_stands_is_found_by_what_makes_boxes(tmp_path: Path, row: str, place: str) -> None:
    reader = _recognised(tmp_path, {"images/a.jpg": PICTURE, "labels/a.txt": f"{row}\n{row}\n"})
    assert reader.rows.confidence == place
    assert any(f"a confidence, {place}" in sentence for sentence in reader.evidence)


@pytest.mark.parametrize("second", ["labels/a.TXT", "labels/a.jpg.txt", "images/a.txt", "annotations/a.txt"])
def test_a_second_label_file_of_a_picture_is_named_with_its_rows(tmp_path: Path, second: str) -> None:
    files: dict[str, str | bytes] = {"images/a.jpg": PICTURE, "labels/a.txt": LINE, second: LINE + LINE}
    dataset = _recognised(tmp_path, {**files, "data.yaml": "train: images\nnames: [cat]\n"})
    assert _pairs(dataset) == {"images/a.jpg": ("train", "labels/a.txt")}
    (stray,) = [item for item in dataset.units() if isinstance(item, Stray)]
    assert (stray.place.file, stray.finding.fault.code, stray.annotations) == (second, "second_label", 2)


def test_labels_that_lie_far_off_or_belong_to_pictures_of_no_split_are_named(tmp_path: Path) -> None:
    more: dict[str, str | bytes] = {
        "labels/extra/z.txt": LINE,
        "images/left/c.jpg": PICTURE,
        "labels/left/c.txt": LINE,
        "old/d.txt": LINE,
    }
    yaml = {"data.yaml": "train: images/train\nval: images/val\nnames: [cat]\n", "labels/classes.txt": "cat\n"}
    dataset = _recognised(
        tmp_path, {**PARALLEL, **more, **yaml, "labels/train/classes.txt": "cat\n", "old/me.txt": "x"}
    )
    assert _pairs(dataset) == PARALLEL_PAIRS
    assert _strays(dataset) == {
        ("labels/extra/z.txt", None, "orphan_label"),
        ("old/d.txt", None, "rows_elsewhere"),
        ("images/left/c.jpg", None, "unlisted"),
        ("labels/left/c.txt", None, "label_unlisted"),
        ("labels/train/classes.txt", None, "not_labels"),
    }


@pytest.mark.parametrize("line", ["images", ".", "LICENSE", "images/v1.0"])
def test_a_line_of_a_list_that_names_no_picture_is_refused_with_its_place(tmp_path: Path, line: str) -> None:
    files: dict[str, str | bytes] = {
        **PARALLEL,
        "LICENSE": "MIT",
        "images/v1.0/b.png": PICTURE,
        "labels/v1.0/b.txt": LINE,
    }
    files["train.txt"] = f"images/train/a.jpg\n{line}\n"
    dataset = _recognised(tmp_path, {**files, "data.yaml": "train: train.txt\nval: images/val\nnames: [cat]\n"})
    assert _pairs(dataset) == PARALLEL_PAIRS
    assert ("train.txt", 2, "not_a_picture") in _strays(dataset)


def test_a_data_yaml_without_splits_still_names_the_classes(tmp_path: Path) -> None:
    dataset = _recognised(tmp_path, {**PARALLEL, "data.yaml": "names: [cat, no]\nkpt_shape: [1, 2]\n"})
    assert (dataset.layout, dataset.classes.names) == ("same_folder", {0: "cat", 1: "no"})
    assert dataset.dataset.keypoints == (1, 2)
    assert _pairs(dataset).keys() == PARALLEL_PAIRS.keys()
    assert "data.yaml names classes, and no splits" in dataset.evidence[0]


POSES = {
    "one point of two numbers": ("0 .5 .5 .4 .4 .45 .45\n", (1, 2)),
    "three of three, one unlabelled": ("0 .5 .5 .4 .4 .4 .45 2 0 0 0 .6 .55 1\n", (3, 3)),
    "outlines of three points": ("0 .1 .2 .5 .2 .3 .6\n", None),
    "a turned box that would hold its last corners": ("0 .5 .5 .7 .6 .6 .8 .4 .7\n", None),
    "outlines beside boxes": ("0 .5 .5 .4 .4 .45 .45\n" + LINE, None),
    "outlines of several lengths": ("0 .5 .5 .4 .4 .45 .45\n0 .5 .5 .4 .4 .45 .45 .46 .46\n", None),
}


@pytest.mark.parametrize("what", POSES)
def test_rows_with_keypoints_are_recognised_where_every_row_shows_them(tmp_path: Path, what: str) -> None:
    rows, shape = POSES[what]
    files: dict[str, str | bytes] = {"images/a.jpg": PICTURE, "labels/a.txt": rows}
    assert _recognised(tmp_path, files).rows.keypoints == shape
    assert _read(tmp_path, Wanted(kpt_shape="5x3")).rows.keypoints == (5, 3)
    told = _read(tmp_path, Wanted(kpt_shape="0")).rows
    assert (told.keypoints, told.outlines) == (None, True)
