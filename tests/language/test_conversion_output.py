"""What a conversion writes: exact, complete, readable by LLaMA-Factory, and the same every time."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.language.llama_factory import problems
from tests.language.yolo_sets import (
    LINE,
    answers,
    converted,
    one_picture,
    options,
    picture,
    samples,
    write_set,
)
from vlyard.errors import InvalidInput, RefusedArchive
from vlyard.formats.archive import pack
from vlyard.formats.faults import FAULTS, Policy

SPLITS: dict[str, str | bytes] = {
    "data.yaml": "train: train/images\nval: valid/images\ntest: test/images\nnames: [cat, dog]\n",
    "train/images/a.jpg": picture(),
    "train/images/a.png": picture(file_format="PNG"),
    "train/labels/a.txt": LINE,
    "valid/images/a.jpg": picture((30, 40)),
    "valid/labels/a.txt": LINE + "1 0.25 0.25 0.5 0.5\n",
    "test/images/größe 猫.jpg": picture(),
    "test/labels/größe 猫.txt": LINE,
}


def test_the_output_is_what_llama_factory_reads(tmp_path: Path) -> None:
    converted(write_set(tmp_path / "set", SPLITS), tmp_path / "out")
    assert not problems(tmp_path / "out")
    assert samples(tmp_path / "out")[0]["messages"][0] == {"role": "user", "content": "<image>\nLocate every object."}


def test_the_answer_is_the_native_list(tmp_path: Path) -> None:
    converted(write_set(tmp_path / "set", one_picture(LINE + "1 0.25 0.25 0.5 0.5\n")), tmp_path / "out")
    (sample,) = samples(tmp_path / "out")
    expected = '[{"bbox_2d": [250, 250, 750, 750], "label": "cat"}, {"bbox_2d": [0, 0, 500, 500], "label": "dog"}]'
    assert sample["messages"][1] == {"role": "assistant", "content": expected}


def test_a_class_that_is_called_like_a_placeholder_is_not_counted_as_one(tmp_path: Path) -> None:
    converted(write_set(tmp_path / "set", one_picture(LINE, "['<image>']")), tmp_path / "out")
    assert not problems(tmp_path / "out")
    assert answers(tmp_path / "out")["images/images/a.jpg"][0]["label"] == "<image>"


def test_each_split_has_its_own_file_and_training_never_sees_the_others(tmp_path: Path) -> None:
    report, _ = converted(write_set(tmp_path / "set", SPLITS), tmp_path / "out")
    out = tmp_path / "out"
    assert list(answers(out)) == ["images/train/images/a.jpg", "images/train/images/a.png"]
    assert list(answers(out, "grounding_val")) == ["images/valid/images/a.jpg"]
    assert list(answers(out, "grounding_test")) == ["images/test/images/größe 猫.jpg"]
    assert report.data_sets == {
        "grounding": {"split": "train", "samples": 2, "boxes": 2},
        "grounding_val": {"split": "val", "samples": 1, "boxes": 2},
        "grounding_test": {"split": "test", "samples": 1, "boxes": 1},
    }
    assert (report.samples, report.boxes, report.classes) == (4, 5, ("cat", "dog"))


def test_a_test_picture_is_not_trained_on_even_where_no_picture_for_training_is_left(tmp_path: Path) -> None:
    files = {**SPLITS, "train/images/a.jpg": b"broken", "train/images/a.png": b"broken"}
    converted(write_set(tmp_path / "set", files), tmp_path / "out")
    assert not (tmp_path / "out" / "grounding.json").exists()
    assert list(answers(tmp_path / "out", "grounding_test")) == ["images/test/images/größe 猫.jpg"]


def test_pictures_are_copied_byte_for_byte_and_equal_names_stay_apart(tmp_path: Path) -> None:
    converted(write_set(tmp_path / "set", SPLITS), tmp_path / "out")
    pictures = {name for name in SPLITS if "/images/" in name}
    written = {path.relative_to(tmp_path / "out" / "images").as_posix() for path in _files(tmp_path / "out" / "images")}
    assert written == pictures
    assert all((tmp_path / "out" / "images" / name).read_bytes() == SPLITS[name] for name in pictures)


def test_a_turned_photo_gives_the_same_boxes_and_is_written_upright(tmp_path: Path) -> None:
    upright = Image.new("RGB", (30, 40), "white")
    upright.paste("red", (0, 0, 30, 20))  # red above: what is seen when the stored picture is turned by 6
    label = "0 0.5 0.25 1 0.5\n"
    files = {**one_picture(label), "images/a.jpg": picture((40, 30), turned=6)}
    _, report = converted(write_set(tmp_path / "set", files), tmp_path / "out")
    (objects,) = answers(tmp_path / "out").values()
    assert objects == [{"bbox_2d": [0, 0, 1000, 500], "label": "cat"}]
    with Image.open(tmp_path / "out/images/images/a.jpg") as seen_without_exif:
        assert seen_without_exif.size == (30, 40)
        for place in ((2, 2), (27, 17), (2, 22), (27, 37)):
            pixel, expected = seen_without_exif.getpixel(place), upright.getpixel(place)
            assert isinstance(pixel, tuple)
            assert isinstance(expected, tuple)
            assert all(abs(a - b) < 12 for a, b in zip(pixel, expected, strict=True))
    assert report["totals"]["pictures"]["rewritten"] == 1
    assert [(row["file"], row["status"], row["codes"]) for row in report["rows"]] == [
        ("images/a.jpg", "fixed", ["turned"])
    ]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    write_set(tmp_path / "one", SPLITS)
    write_set(tmp_path / "two", dict(reversed(SPLITS.items())))
    for name in ("one", "two"):
        converted(tmp_path / name, tmp_path / f"{name}.out")
        pack(tmp_path / f"{name}.out", tmp_path / f"{name}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_the_report_has_its_documented_shape(tmp_path: Path) -> None:
    files = {**one_picture(LINE + "0 0.05 0.5 0.2 0.4\nnonsense\n\n"), "labels/lost.txt": LINE + LINE}
    _, report = converted(write_set(tmp_path / "set", files), tmp_path / "out")
    evidence = report["source"].pop("evidence")
    assert report.pop("options") == options().model_dump(mode="json")
    rows = report.pop("rows")
    assert evidence[0] == "data.yaml names classes and splits"
    assert report == {
        "version": 2,
        "source": {"format": "yolo", "layout": "ultralytics", "described_by": "data.yaml"},
        "classes": {"0": "cat", "1": "dog"},
        "data_sets": {"grounding": {"split": "train", "samples": 1, "boxes": 2}},
        "boxes_per_class": {"cat": 2},
        "totals": {
            "pictures": {
                "read": 1, "kept": 1, "refused": 0, "left_out": 0,
                "without_objects": 0, "without_label_file": 0, "rewritten": 0,
            },
            "annotations": {"read": 5, "kept": 1, "fixed": 1, "refused": 3, "left_out": 0},
            "samples": 1,
            "boxes": 2,
            "spelling": {
                "files_with_byte_order_mark": 0, "files_with_carriage_returns": 0, "blank_lines": 1, "said_again": 0,
            },
            "faults": {"orphan_label": 1, "outside": 1, "wrong_field_count": 1},
        },
    }  # fmt: skip
    fixed, refused, orphan = rows
    assert fixed == {
        "file": "labels/a.txt",
        "line": 2,
        "entry": None,
        "status": "fixed",
        "codes": ["outside"],
        "reason": "the box reaches outside the picture by 0.050000",
        "how": "it was cut at the picture's edge",
        "annotations": 1,
    }
    assert (refused["line"], refused["codes"], refused["how"]) == (3, ["wrong_field_count"], "")
    assert (orphan["file"], orphan["line"], orphan["codes"], orphan["annotations"]) == (
        "labels/lost.txt", None, ["orphan_label"], 2,
    )  # fmt: skip


def test_a_picture_without_objects_is_a_sample_that_says_so_or_is_left_out(tmp_path: Path) -> None:
    files = {**one_picture(LINE), "images/empty.jpg": picture(), "labels/empty.txt": "\n", "images/none.jpg": picture()}
    write_set(tmp_path / "set", files)
    _, kept = converted(tmp_path / "set", tmp_path / "kept")
    assert answers(tmp_path / "kept")["images/images/none.jpg"] == []
    assert kept["totals"]["pictures"]["without_objects"] == 2
    assert kept["totals"]["pictures"]["without_label_file"] == 1
    _, dropped = converted(tmp_path / "set", tmp_path / "dropped", options(negatives=0))
    assert list(answers(tmp_path / "dropped")) == ["images/images/a.jpg"]
    assert dropped["totals"]["pictures"]["left_out"] == 2


def test_a_picture_whose_every_line_was_refused_does_not_teach_that_it_is_empty(tmp_path: Path) -> None:
    files = {**one_picture(LINE), "images/b.jpg": picture(), "labels/b.txt": "0 340 200 60 80\n"}
    _, report = converted(write_set(tmp_path / "set", files), tmp_path / "out")
    assert list(answers(tmp_path / "out")) == ["images/images/a.jpg"]
    assert report["totals"]["pictures"]["refused"] == 1
    assert [row["codes"] for row in report["rows"]] == [["pixels"], ["no_line_left"]]


@pytest.mark.parametrize("content", [picture()[:300], b"<html>", b""])
def test_an_unreadable_picture_is_refused_with_its_lines_and_the_rest_goes_on(tmp_path: Path, content: bytes) -> None:
    files = {**one_picture(LINE), "images/b.jpg": content, "labels/b.txt": LINE + "1 0.5 0.5 0.1 0.1\n"}
    _, report = converted(write_set(tmp_path / "set", files), tmp_path / "out")
    assert list(answers(tmp_path / "out")) == ["images/images/a.jpg"]
    (row,) = report["rows"]
    assert (row["file"], row["status"], row["codes"], row["annotations"]) == (
        "images/b.jpg", "refused", ["unreadable_picture"], 2,
    )  # fmt: skip
    assert report["totals"]["annotations"] == {"read": 3, "kept": 1, "fixed": 0, "refused": 2, "left_out": 0}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"labels/a.txt": LINE + "\n0 0.05 0.5 0.2 0.4\n"}, r"labels/a\.txt:3"),
        ({"labels/a.txt": LINE + LINE}, r"labels/a\.txt:2"),
        ({"labels/lost.txt": LINE}, r"labels/lost\.txt"),
        ({"images/b.jpg": b"no picture"}, r"images/b\.jpg"),
    ],
)
def test_strict_stops_at_the_first_fault_and_names_its_place(
    tmp_path: Path, change: dict[str, str | bytes], where: str
) -> None:
    write_set(tmp_path / "set", {**one_picture(LINE), **change})
    with pytest.raises(InvalidInput, match=where):
        converted(tmp_path / "set", tmp_path / "out", options("strict"))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_strict_has_nothing_against_blank_lines_turned_pictures_or_missing_labels(tmp_path: Path) -> None:
    files = {**one_picture("\ufeff" + LINE.replace("\n", "\r\n\r\n")), "images/b.jpg": picture(turned=3)}
    report, _ = converted(write_set(tmp_path / "set", files), tmp_path / "out", options("strict"))
    assert report.samples == 2


def test_a_set_without_one_usable_box_is_refused_and_says_why(tmp_path: Path) -> None:
    write_set(tmp_path / "set", one_picture("0 340 200 60 80\n7 0.5 0.5 0.1 0.1\n"))
    with pytest.raises(InvalidInput) as refusal:
        converted(tmp_path / "set", tmp_path / "out")
    message = str(refusal.value)
    assert "1 pictures and 2 annotations" in message
    assert "ultralytics" in message
    assert "labels/a.txt:1" in message
    assert "labels/a.txt:2: no class has the id 7" in message
    assert not (tmp_path / "out").exists()


def test_an_archive_is_converted_like_its_folder(tmp_path: Path) -> None:
    pack(write_set(tmp_path / "set", SPLITS), tmp_path / "set.zip")
    converted(tmp_path / "set", tmp_path / "from_folder")
    converted(tmp_path / "set.zip", tmp_path / "from_archive")
    for file in _files(tmp_path / "from_folder"):
        assert (
            tmp_path / "from_archive" / file.relative_to(tmp_path / "from_folder")
        ).read_bytes() == file.read_bytes()
    (tmp_path / "x.zip").write_bytes(b"no archive")
    with pytest.raises(RefusedArchive):
        converted(tmp_path / "x.zip", tmp_path / "none")


def test_a_source_may_be_named_by_a_roundabout_path_or_a_link(tmp_path: Path) -> None:
    write_set(tmp_path / "set", SPLITS)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    for number, source in enumerate((tmp_path / "set" / ".." / "set", tmp_path / "link")):
        report, _ = converted(source, tmp_path / f"out{number}")
        assert (report.layout, report.boxes) == ("ultralytics", 5)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [("full", "not an empty folder"), ("full/kept.txt", "not an empty folder"), ("set/out", "inside the source")],
)
def test_an_output_that_is_in_the_way_is_left_alone(tmp_path: Path, output: str, complaint: str) -> None:
    write_set(tmp_path / "set", one_picture(LINE))
    write_set(tmp_path / "full", {"kept.txt": "mine"})
    with pytest.raises(InvalidInput, match=complaint):
        converted(tmp_path / "set", tmp_path / output)
    assert (tmp_path / "full" / "kept.txt").read_text() == "mine"


def test_a_name_or_a_prompt_that_would_break_the_output_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set", one_picture(LINE))
    with pytest.raises(InvalidInput, match="<image>"):
        converted(tmp_path / "set", tmp_path / "out", options(prompt="<image>\nFind cats."))
    with pytest.raises(ValueError, match="name"):
        options(name="../evil")


def test_a_file_name_that_is_not_unicode_is_refused_and_reported(tmp_path: Path) -> None:
    write_set(tmp_path / "set", one_picture(LINE))
    (tmp_path / "set" / "images" / "b\udcff.jpg").write_bytes(picture())
    (tmp_path / "set" / "labels" / "b\udcff.txt").write_text(LINE)
    (tmp_path / "set" / "labels" / "lost\udcff.txt").write_text(LINE)
    _, report = converted(tmp_path / "set", tmp_path / "out")
    assert [row["codes"] for row in report["rows"]] == [["name_not_unicode"], ["orphan_label"]]
    assert report["totals"]["annotations"]["refused"] == 2


def test_progress_rises_to_one_and_what_it_raises_stops_the_conversion(tmp_path: Path) -> None:
    write_set(tmp_path / "set", SPLITS)
    told: list[tuple[float | None, str]] = []
    converted(tmp_path / "set", tmp_path / "out", progress=lambda fraction, text: told.append((fraction, text)))
    fractions = [fraction for fraction, _ in told if fraction is not None]
    assert fractions == sorted(fractions)
    assert told[-1] == (1.0, "4 of 4 pictures")

    def stop(fraction: float | None, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted(tmp_path / "set", tmp_path / "stopped", progress=stop)
    assert not (tmp_path / "stopped").exists()


def test_the_contact_sheet_shows_the_boxes(tmp_path: Path) -> None:
    converted(write_set(tmp_path / "set", SPLITS), tmp_path / "out")
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.size == (4 * 328 + 8, 328 + 8)


line = st.sampled_from(
    [LINE.strip(), "1 0.1 0.1 0.3 0.3", "0 0.5 0.5 0.1 0.1 0.9", "1.0 0.5 0.5 0.1 0.1", "5 0.5 0.5 0.1 0.1", "", "  ",
     "0 0.5 0.5 0 0.1", "0 3 4 5 6", "nan", "0 0.01 0.01 0.1 0.1", "x y z w v", "0 inf 0.5 0.1 0.1"]
)  # fmt: skip
label_file = st.one_of(st.none(), st.lists(line, max_size=6))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(label_file, st.sampled_from(["good", "turned", "broken", "missing"])), max_size=5),
    st.sampled_from(["fix", "skip"]),
    st.booleans(),
)
def test_every_line_and_every_picture_of_any_set_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[tuple[list[str] | None, str]],
    policy: Policy,
    keep_empty: bool,
) -> None:
    folder = tmp_path_factory.mktemp("set")
    contents = {"good": picture(), "turned": picture(turned=8), "broken": b"broken"}
    files = one_picture(LINE)
    for number, (lines, state) in enumerate(parts):
        if state in contents:
            files[f"images/{number}.jpg"] = contents[state]
        if lines is not None:
            files[f"labels/{number}.txt"] = "\n".join(lines)
    _, report = converted(
        write_set(folder / "set", files), folder / "out", options(policy, negatives=None if keep_empty else 0)
    )

    totals, rows = report["totals"], report["rows"]
    written = 1 + sum(1 for lines, _ in parts for text in lines or [] if text.strip())
    assert totals["annotations"]["read"] == written
    assert totals["annotations"]["kept"] + totals["annotations"]["fixed"] + totals["annotations"]["refused"] == written
    for status in ("fixed", "refused"):
        assert sum(row["annotations"] for row in rows if row["status"] == status) == totals["annotations"][status]
    pictures = totals["pictures"]
    assert pictures["read"] == sum(name.startswith("images/") for name in files)
    assert pictures["kept"] + pictures["refused"] + pictures["left_out"] == pictures["read"]
    boxes: list[dict[str, Any]] = [box for objects in answers(folder / "out").values() for box in objects]
    assert len(boxes) == totals["boxes"]
    assert {code for row in rows for code in row["codes"]} <= set(FAULTS)
    assert not problems(folder / "out")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
