"""Every fault that a data set may have, through the whole conversion: kept, fixed or refused, and never lost."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.language.llama_factory import problems
from tests.language.yolo_sets import BOX_OF_LINE, LINE, answers, converted, options, picture, write_set
from vlyard.errors import InvalidInput
from vlyard.formats.faults import Policy

Files = dict[str, str | bytes]
GOOD = "1 0.2 0.2 0.2 0.2\n"
BOX_OF_GOOD = [100, 100, 300, 300]
NAMES = "train: images\nnames: [cat, dog]\n"


def saved(mode: str, file_format: str, **more: Any) -> bytes:
    """A picture of 40 x 30 in an unusual mode or format."""
    file = io.BytesIO()
    Image.new(mode, (40, 30), 40_000 if mode == "I;16" else 0).save(file, file_format, **more)
    return file.getvalue()


def a_set(more: Mapping[str, str | bytes | None], labels: str | bytes | None = GOOD) -> Files:
    """A sound picture `ok`, and a picture `a` with these labels; `more` by path, without a content: not there."""
    files: dict[str, str | bytes | None] = {
        "data.yaml": NAMES, "images/ok.jpg": picture(), "labels/ok.txt": LINE,
        "images/a.jpg": picture(), "labels/a.txt": labels, **more,
    }  # fmt: skip
    return {name: content for name, content in files.items() if content is not None}


def account(folder: Path, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report's rows, after all that must hold of every account was checked."""
    totals, rows = report["totals"], report["rows"]
    for counted in (totals["annotations"], totals["pictures"]):
        parts = ("kept", "fixed", "refused", "left_out")
        assert counted["read"] == sum(counted.get(part, 0) for part in parts), counted
    refused = sum(row["annotations"] for row in rows if row["status"] == "refused")
    assert refused == totals["annotations"]["refused"]
    ignored = sum(row["annotations"] for row in rows if row["status"] == "ignored")
    assert ignored == totals["annotations"]["left_out"]
    with (folder / "report.csv").open(encoding="utf-8", newline="") as table:
        told = list(csv.DictReader(table))
    as_told = [
        {key: " ".join(value) if key == "codes" else "" if value is None else str(value) for key, value in row.items()}
        for row in rows
    ]
    assert told == as_told
    for row in rows:
        assert row["reason"], row
        assert bool(row["how"]) == (row["status"] in {"fixed", "kept"}) or row["status"] == "ignored", row
    return rows  # type: ignore[no-any-return]


# --- lines of a label file ------------------------------------------------------------------------------------

FIXED_LINES: dict[str, tuple[str, str, list[int] | None]] = {
    "a decimal comma": ("0 0,5 0,5 0,5 0,5", "decimal_comma", BOX_OF_LINE),
    "commas between": ("0,0.5,0.5,0.5,0.5", "separated", BOX_OF_LINE),
    "semicolons between": ("0;0.5;0.5;0.5;0.5", "separated", BOX_OF_LINE),
    "a confidence last": ("0 0.5 0.5 0.5 0.5 0.93", "confidence", BOX_OF_LINE),
    "a class as a decimal": ("0.0 0.5 0.5 0.5 0.5", "class_as_decimal", BOX_OF_LINE),
    "a class as a name": ("cat 0.5 0.5 0.5 0.5", "class_as_name", BOX_OF_LINE),
    "slightly outside": ("0 0.5 0.5 1.005 0.5", "outside", [0, 250, 1000, 750]),
    "a duplicate": (GOOD.strip(), "duplicate", None),
}
REFUSED_LINES = {
    "an id out of range": ("2 0.5 0.5 0.5 0.5", "class_out_of_range"),
    "a negative id": ("-1 0.5 0.5 0.5 0.5", "class_out_of_range"),
    "an id that is no integer": ("0.5 0.5 0.5 0.5 0.5", "class_not_integer"),
    "an unknown name": ("cow 0.5 0.5 0.5 0.5", "class_not_integer"),
    "far outside": ("0 1.4 0.5 0.5 0.5", "far_outside"),
    "pixels": ("0 20 15 20 15", "pixels"),
    "no width": ("0 0.5 0.5 0 0.5", "no_area"),
    "a negative height": ("0 0.5 0.5 0.5 -0.5", "no_area"),
    "not a number": ("0 nan 0.5 0.5 0.5", "not_finite"),
    "infinite": ("0 0.5 inf 0.5 0.5", "not_finite"),
    "too large for a double": ("0 0.5 0.5 1e999 0.5", "not_finite"),
    "a word": ("0 0.5 wide 0.5 0.5", "not_a_number"),
    "too few fields": ("0 0.5 0.5 0.5", "wrong_field_count"),
    "too long": ("0 0.5 0.5 0.5 0.5 " + "0 " * 40_000, "line_too_long"),
}


@pytest.mark.parametrize("what", FIXED_LINES)
def test_a_line_that_has_one_clear_mending_is_fixed_or_skipped_or_stops_all(tmp_path: Path, what: str) -> None:
    line, code, box = FIXED_LINES[what]
    source = write_set(tmp_path / "set", a_set({}, f"{GOOD}{line}\n"))
    for policy, status in (("fix", "fixed"), ("skip", "refused")):
        _, report = converted(source, tmp_path / policy, options(policy))  # type: ignore[arg-type]
        (row,) = account(tmp_path / policy, report)
        assert (row["file"], row["line"], row["status"]) == ("labels/a.txt", 2, status)
        assert (row["codes"], row["annotations"]) == ([code], 1)
        assert report["totals"]["annotations"][status] == 1
        boxes = [found["bbox_2d"] for found in answers(tmp_path / policy)["images/images/a.jpg"]]
        assert boxes == [BOX_OF_GOOD, *([box] if box and policy == "fix" else [])]
    with pytest.raises(InvalidInput, match=r"labels/a\.txt:2"):
        converted(source, tmp_path / "strict", options("strict"))


@pytest.mark.parametrize("what", REFUSED_LINES)
def test_a_line_that_nobody_can_mend_is_refused_with_its_place_and_reason(tmp_path: Path, what: str) -> None:
    line, code = REFUSED_LINES[what]
    source = write_set(tmp_path / "set", a_set({}, f"{GOOD}{line}\n"))
    policies: tuple[Policy, ...] = ("fix", "skip")
    for policy in policies:
        _, report = converted(source, tmp_path / policy, options(policy))
        (row,) = account(tmp_path / policy, report)
        assert (row["file"], row["line"], row["status"]) == ("labels/a.txt", 2, "refused")
        assert (row["codes"], row["annotations"]) == ([code], 1)
        assert report["totals"]["annotations"] == {"read": 3, "kept": 2, "fixed": 0, "refused": 1, "left_out": 0}
    with pytest.raises(InvalidInput, match=r"labels/a\.txt:2"):
        converted(source, tmp_path / "strict", options("strict"))


def test_pixels_are_converted_when_that_is_asked_for(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", a_set({"labels/ok.txt": "0 20 15 20 15\n"}, "0 20 15 20 15\n"))
    _, report = converted(source, tmp_path / "out", options("strict", coordinates="pixels-cxcywh"))
    assert account(tmp_path / "out", report) == []
    assert [found["bbox_2d"] for found in answers(tmp_path / "out")["images/images/a.jpg"]] == [BOX_OF_LINE]


def test_a_confidence_in_second_place_is_found_there(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", a_set({}, "0 0.93 0.5 0.5 0.5 0.5\n"))
    _, report = converted(source, tmp_path / "out")
    (row,) = account(tmp_path / "out", report)
    assert (row["line"], row["status"], row["codes"]) == (1, "fixed", ["confidence"])
    assert [found["bbox_2d"] for found in answers(tmp_path / "out")["images/images/a.jpg"]] == [BOX_OF_LINE]


SPELLINGS = {
    "a byte order mark": (b"\xef\xbb\xbf" + LINE.encode(), {"files_with_byte_order_mark": 1}),
    "carriage returns": (LINE.replace("\n", "\r\n").encode(), {"files_with_carriage_returns": 1}),
    "blank lines": (f"\n  \n{LINE}".encode(), {"blank_lines": 2}),
    "blanks at the end": (f"{LINE}\n \t\n\n".encode(), {"blank_lines": 3}),
    "blanks behind": (LINE.replace("\n", "  \t\n").encode(), {}),
    "scientific notation": (b"0 5e-1 5.0E-01 .5e0 +0.5\n", {}),
    "no end of line": (LINE.strip().encode(), {}),
}


@pytest.mark.parametrize("what", SPELLINGS)
def test_a_spelling_that_changes_nothing_passes_under_strict_and_is_counted(tmp_path: Path, what: str) -> None:
    labels, spelling = SPELLINGS[what]
    _, report = converted(write_set(tmp_path / "set", a_set({}, labels)), tmp_path / "out", options("strict"))
    assert account(tmp_path / "out", report) == []
    assert {mark: count for mark, count in report["totals"]["spelling"].items() if count} == spelling
    assert [found["bbox_2d"] for found in answers(tmp_path / "out")["images/images/a.jpg"]] == [BOX_OF_LINE]


# --- files ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileFault:
    """A set, and what the report says of it. `strict` is what its error names; without one all passes."""

    files: Files
    file: str
    status: str
    code: str
    strict: str = ""
    annotations: int = 0
    kept: int = 2  # pictures


def refused_picture(content: bytes) -> FileFault:
    files = a_set({"images/a.jpg": content})
    return FileFault(files, "images/a.jpg", "refused", "unreadable_picture", r"images/a\.jpg", 1, 1)


def odd_picture(name: str, content: bytes, status: str, code: str) -> FileFault:
    return FileFault(a_set({"images/a.jpg": None, f"images/{name}": content}), f"images/{name}", status, code)


RED = Image.new("RGB", (40, 30), "red")
FILE_FAULTS = {
    "boxes and polygons": FileFault(
        a_set({}, GOOD + "0 0.1 0.1 0.9 0.1 0.9 0.9\n"), "labels/a.txt", "kept", "mixed_rows"
    ),
    "an orphan label": FileFault(
        a_set({"labels/b.txt": LINE + GOOD}), "labels/b.txt", "refused", "orphan_label", r"labels/b\.txt", 2
    ),
    "an unreadable picture": refused_picture(b"no picture"),
    "an empty picture": refused_picture(b""),
    "a truncated picture": refused_picture(picture()[:-200]),
    "a bomb": refused_picture(picture((90, 90))),
    "no line left": FileFault(a_set({}, "0 1 1 0 0\n"), "images/a.jpg", "refused", "no_line_left", "a.txt:1", 0, 1),
    "a PNG called jpg": odd_picture("a.jpg", picture(file_format="PNG"), "kept", "wrong_suffix"),
    "CMYK": odd_picture("a.jpg", saved("CMYK", "JPEG"), "kept", "cmyk"),
    "16 bits": odd_picture("a.png", saved("I;16", "PNG"), "fixed", "sixteen_bit"),
    "animated": odd_picture("a.webp", saved("RGB", "WEBP", save_all=True, append_images=[RED]), "kept", "animated"),
    "turned by EXIF": odd_picture("a.jpg", picture(turned=6), "fixed", "turned"),
    "transparent": odd_picture("a.png", saved("RGBA", "PNG"), "fixed", "transparent"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILE_FAULTS)
def test_a_file_that_is_odd_stands_in_the_account(tmp_path: Path, what: str) -> None:
    fault = FILE_FAULTS[what]
    source = write_set(tmp_path / "set", fault.files)
    policies: tuple[Policy, ...] = ("fix", "skip") if fault.strict else ("fix", "strict")
    for policy in policies:
        _, report = converted(source, tmp_path / policy, options(policy), max_pixels=2_000)
        (row,) = [row for row in account(tmp_path / policy, report) if row["codes"] == [fault.code]]
        assert (row["file"], row["status"], row["annotations"]) == (fault.file, fault.status, fault.annotations)
        assert report["totals"]["pictures"]["kept"] == fault.kept
        assert problems(tmp_path / policy) == []
    if fault.strict:
        with pytest.raises(InvalidInput, match=fault.strict):
            converted(source, tmp_path / "refused", options("strict"), max_pixels=2_000)


HARMLESS: dict[str, tuple[Files, str, list[list[int]]]] = {
    "an empty file": (a_set({}, ""), "images/images/a.jpg", []),
    "no label file": (a_set({}, None), "images/images/a.jpg", []),
    "an upper-case suffix": (
        a_set({"images/a.jpg": None, "images/A.JPG": picture(), "labels/a.txt": None, "labels/A.txt": GOOD}),
        "images/images/A.JPG", [BOX_OF_GOOD],
    ),
    "an upper-case label": (a_set({"labels/a.TXT": GOOD}, None), "images/images/a.jpg", [BOX_OF_GOOD]),
    "a name that is not ASCII": (
        a_set({"images/a.jpg": None, "images/猫 ü.jpg": picture(), "labels/a.txt": None, "labels/猫 ü.txt": GOOD}),
        "images/images/猫 ü.jpg", [BOX_OF_GOOD],
    ),
    "equal stems in two folders": (
        a_set({"images/b/a.jpg": picture(), "labels/b/a.txt": LINE}), "images/images/b/a.jpg", [BOX_OF_LINE]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_what_is_no_fault_passes_under_strict(tmp_path: Path, what: str) -> None:
    files, name, boxes = HARMLESS[what]
    _, report = converted(write_set(tmp_path / "set", files), tmp_path / "out", options("strict"))
    told = [["no_label_file"]] if what == "no label file" else []
    assert [row["codes"] for row in account(tmp_path / "out", report)] == told
    assert [found["bbox_2d"] for found in answers(tmp_path / "out")[name]] == boxes
    assert report["totals"]["pictures"]["kept"] == sum(name.startswith("images/") for name in files)
    assert problems(tmp_path / "out") == []


def test_damage_that_a_header_does_not_show_is_found_when_the_picture_is_turned_upright(tmp_path: Path) -> None:
    content = picture(file_format="PNG", turned=6)
    start = content.index(b"IDAT") + 6
    damaged = content[:start] + b"\xaa" * 10 + content[start + 10 :]
    source = write_set(tmp_path / "set", a_set({"images/a.jpg": None, "images/a.png": damaged}))
    _, report = converted(source, tmp_path / "out", options(check="header"))
    (row,) = account(tmp_path / "out", report)
    assert (row["file"], row["codes"], row["annotations"]) == ("images/a.png", ["unreadable_picture"], 1)
    assert list(answers(tmp_path / "out")) == ["images/images/ok.jpg"]
    assert [path.name for path in (tmp_path / "out" / "images").rglob("*.*")] == ["ok.jpg"]
