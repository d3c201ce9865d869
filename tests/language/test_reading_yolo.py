"""Every row of a label file is kept, fixed or refused, and nothing else happens to it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vlyard.formats.classes import Classes
from vlyard.formats.faults import FAULTS, Policy, Status
from vlyard.formats.readers.yolo_rows import Rows, count_rows, looks_like_rows
from vlyard.formats.reading import Reading, Row
from vlyard.formats.record import Keypoint, Look, Target

TWO = Classes({0: "cat", 1: "dog"})
GOOD = "1 0.5 0.5 0.2 0.4"
OTHER = "0 0.3 0.3 0.1 0.1"


@dataclass(frozen=True)
class Result:
    """What became of one row: kept, with its target, or told of in the report."""

    target: Target | None
    row: Row | None

    @property
    def codes(self) -> list[str]:
        return [finding.fault.code for finding in self.row.findings] if self.row else []


def _reading(
    folder: Path, content: str | bytes, policy: Policy = "fix", rows: Rows = Rows(TWO), **look: Any
) -> Reading:
    path = folder / "a.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    reading = Reading(policy)
    rows.read(str(path), "labels/a.txt", Look(**look), reading)
    return reading


def _one(folder: Path, text: str, policy: Policy = "fix", rows: Rows = Rows(TWO), **look: Any) -> Result:
    reading = _reading(folder, text, policy, rows, **look)
    assert reading.annotations == 1
    return Result(next(iter(reading.targets), None), next(iter(reading.rows), None))


def _thousandths(target: Target | None) -> tuple[int, int, int, int]:
    assert target is not None
    return target.box.to_thousand()


def test_a_good_row_is_kept_as_it_stands(tmp_path: Path) -> None:
    reading = _reading(tmp_path, GOOD)
    (target,) = reading.targets
    assert (reading.kept, reading.rows) == (1, [])
    assert (target.class_id, target.label, target.box.to_thousand()) == (1, "dog", (400, 300, 600, 700))


MENDED = [
    ("0 0.5 0.5 0.2 0.4 0.93", "confidence", (400, 300, 600, 700)),
    ("0.0 0.5 0.5 0.2 0.4", "class_as_decimal", (400, 300, 600, 700)),
    ("0 0.05 0.5 0.2 0.4", "outside", (0, 300, 150, 700)),
    ("0 1.005 0.5 0.2 0.4", "outside", (905, 300, 1000, 700)),
    ("0 -0.01 0.5 0.2 0.4", "outside", (0, 300, 90, 700)),
    ("0,0.5,0.5,0.2,0.4", "separated", (400, 300, 600, 700)),
    ("0, 0.5, 0.5, 0.2, 0.4,", "separated", (400, 300, 600, 700)),
    ("0;0.5;0.5;0.2;0.4", "separated", (400, 300, 600, 700)),
    ("0 0,5 0,5 0,2 0,4", "decimal_comma", (400, 300, 600, 700)),
    ("0 0.5 0.5 0.2 0,4", "decimal_comma", (400, 300, 600, 700)),
    ("cat 0.5 0.5 0.2 0.4", "class_as_name", (400, 300, 600, 700)),
]


@pytest.mark.parametrize(("text", "code", "thousandths"), MENDED)
def test_a_fault_with_one_clear_mending_is_fixed(
    tmp_path: Path, text: str, code: str, thousandths: tuple[int, ...]
) -> None:
    result = _one(tmp_path, text)
    assert result.row is not None
    assert (result.row.status, result.codes) == (Status.FIXED, [code])
    assert (result.row.place.file, result.row.place.line) == ("labels/a.txt", 1)
    assert result.target is not None
    assert (result.target.label, _thousandths(result.target)) == ("cat", thousandths)


REFUSED = [
    ("0 0.5 0.5 0.2", "wrong_field_count"),
    ("0 0.5 0.5 0.2 0.4 7", "wrong_field_count"),
    ("cow 0.5 0.5 0.2 0.4", "class_not_integer"),
    ("0.5 0.5 0.5 0.2 0.4", "class_not_integer"),
    ("1_0 0.5 0.5 0.2 0.4", "class_not_integer"),
    ("nan 0.5 0.5 0.2 0.4", "class_not_integer"),
    ("-1 0.5 0.5 0.2 0.4", "class_out_of_range"),
    ("2 0.5 0.5 0.2 0.4", "class_out_of_range"),
    ("9" * 18 + " 0.5 0.5 0.2 0.4", "class_out_of_range"),
    ("9" * 5000 + " 0.5 0.5 0.2 0.4", "class_not_integer"),
    ("0 nan 0.5 0.2 0.4", "not_finite"),
    ("0 0.5 -inf 0.2 0.4", "not_finite"),
    ("0 0.5 0.5 1e999 0.4", "not_finite"),
    ("0 0.5 0.5 0_2 0.4", "not_a_number"),
    ("0 0.5 0.5 ٣ 0.4", "not_a_number"),
    ("0 0.5 0.5 0 0.4", "no_area"),
    ("0 0.5 0.5 0.2 -0.4", "no_area"),
    ("0 340 200 60 80", "pixels"),
    ("0 1.9 0.5 0.2 0.4", "far_outside"),
    ("0 320 200 330 200 330 210", "pixels"),
    ("0 0.5 0.5 0.6 0.5 0.7 0.5", "no_area"),
    ("0 0.5 0.5 0.6 nan 0.7 0.5", "not_finite"),
    ("0,5 0,5 0,2", "wrong_field_count"),
    ("0 1.02 0.5 0.2 0.4", "far_outside"),
    ("0 1.01 0.5 0.005 0.4", "not_in_picture"),
    ("0 0.5 0.5 0.2 " + "4" * 70_000, "line_too_long"),
]


@pytest.mark.parametrize(("text", "code"), REFUSED, ids=[text[:30] for text, _ in REFUSED])
@pytest.mark.parametrize("policy", ["fix", "skip"])
def test_a_fault_without_a_clear_mending_is_refused_with_its_line(
    tmp_path: Path, text: str, code: str, policy: Policy
) -> None:
    reading = _reading(tmp_path, f"{OTHER}\n{text}\n{GOOD}\n", policy)
    assert (reading.kept, reading.refused, len(reading.targets)) == (2, 1, 2)
    (row,) = [row for row in reading.rows if row.annotations]
    assert (row.place.line, row.status, row.annotations) == (2, Status.REFUSED, 1)
    assert row.findings[-1].fault.code == code
    assert len(row.findings[-1].reason) < 200


@pytest.mark.parametrize(("text", "code", "thousandths"), MENDED)
def test_under_skip_nothing_is_mended(tmp_path: Path, text: str, code: str, thousandths: tuple[int, ...]) -> None:
    result = _one(tmp_path, text, "skip")
    assert (result.target, result.codes[0]) == (None, code)


def test_a_second_equal_row_is_dropped_and_accounted_for(tmp_path: Path) -> None:
    reading = _reading(tmp_path, f"{GOOD}\n0 0.5 0.5 0.2 0.4\n1  0.50 0.5 0.2 0.4\n")
    assert [target.label for target in reading.targets] == ["dog", "cat"]  # another class in the same place is none
    assert (reading.kept, reading.fixed) == (2, 1)
    assert "line 1" in reading.rows[0].findings[0].reason


def test_a_row_is_no_duplicate_of_one_that_was_refused(tmp_path: Path) -> None:
    reading = _reading(tmp_path, f"{GOOD} 0.9\n{GOOD}\n", "skip")
    assert (reading.kept, reading.refused) == (1, 1)


def test_an_edge_that_rounding_put_outside_is_no_fault(tmp_path: Path) -> None:
    reading = _reading(tmp_path, "0 0.916667 0.5 0.166667 0.4")  # right edge at 1.0000005
    assert (reading.kept, _thousandths(reading.targets[0])) == (1, (833, 300, 1000, 700))


def test_a_polygon_becomes_its_box_and_is_kept(tmp_path: Path) -> None:
    result = _one(tmp_path, "0 0.1 0.2 0.5 0.2 0.3 0.6")
    assert (result.row, _thousandths(result.target)) == (None, (100, 200, 500, 600))
    assert result.target is not None
    assert result.target.polygon == ((0.1, 0.2), (0.5, 0.2), (0.3, 0.6))


def test_the_corners_of_a_turned_box_become_the_box_around_them(tmp_path: Path) -> None:
    result = _one(tmp_path, "1 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5")
    assert (result.row, _thousandths(result.target)) == (None, (100, 100, 900, 900))


def test_a_file_of_boxes_and_polygons_is_read_whole_and_says_so(tmp_path: Path) -> None:
    reading = _reading(tmp_path, f"{GOOD}\n0 0.1 0.2 0.5 0.2 0.3 0.6\n", "strict")
    assert (reading.kept, len(reading.targets)) == (2, 2)
    assert [(row.status, row.findings[0].fault.code) for row in reading.rows] == [(Status.KEPT, "mixed_rows")]


def test_the_points_of_a_pose_are_kept_by_name_and_unlabelled_ones_are_not(tmp_path: Path) -> None:
    rows = Rows(TWO, keypoints=(3, 3), keypoint_names=("nose", "tail"))
    result = _one(tmp_path, "0 0.5 0.5 0.4 0.4 0.4 0.45 2 0 0 0 0.6 0.55 1", rows=rows)
    assert result.target is not None
    assert result.target.keypoints == (Keypoint(0.4, 0.45, "nose"), Keypoint(0.6, 0.55, "point_2", visible=False))
    assert _thousandths(result.target) == (300, 300, 700, 700)
    outside = _one(tmp_path, "0 0.5 0.5 0.4 0.4 0.4 0.45 2 1.5 0.5 2 0.6 0.55 2", rows=rows)
    assert outside.codes == ["keypoint_outside"]
    assert outside.target is not None
    assert [point.name for point in outside.target.keypoints] == ["nose", "point_2"]


def test_a_row_that_looks_like_a_pose_is_refused_where_nothing_says_how_many_points_it_has(tmp_path: Path) -> None:
    text = "0 0.5 0.5 0.4 0.4 0.4 0.45 2 0 0 0 0.6 0.55 1"
    assert _one(tmp_path, text).codes == ["pose_undeclared"]
    assert _one(tmp_path, text, rows=Rows(TWO, outlines=True)).codes == ["confidence", "far_outside"]


def test_a_confidence_is_taken_off_wherever_the_set_has_it(tmp_path: Path) -> None:
    last, second = Rows(TWO), Rows(TWO, confidence="second")
    for rows, text in ((last, f"{GOOD} 0.9"), (second, "1 0.9 0.5 0.5 0.2 0.4")):
        result = _one(tmp_path, text, rows=rows)
        assert (_thousandths(result.target), result.codes) == ((400, 300, 600, 700), ["confidence"])
        assert result.target is not None
        assert result.target.attributes == {"confidence": 0.9}
    polygon = _one(tmp_path, "0 0.1 0.2 0.5 0.2 0.3 0.6 0.75")
    assert polygon.target is not None
    assert (len(polygon.target.polygon), polygon.target.attributes) == (3, {"confidence": 0.75})


@pytest.mark.parametrize(
    ("coordinates", "text"),
    [
        ("pixels-cxcywh", "1 320 240 128 192"),
        ("pixels-xywh", "1 256 144 128 192"),
        ("pixels-xyxy", "1 256 144 384 336"),
        ("pixels-xyxy", "1 256 144 384 144 384 336 256 336"),
    ],
)
def test_pixels_are_converted_when_they_were_announced(tmp_path: Path, coordinates: Any, text: str) -> None:
    rows = Rows(TWO, coordinates=coordinates)
    result = _one(tmp_path, text, rows=rows, width=640, height=480)
    assert (result.row, _thousandths(result.target)) == (None, (400, 300, 600, 700))
    assert _one(tmp_path, text, rows=rows).codes == ["size_unknown"]
    assert _one(tmp_path, text).codes == ["pixels"]
    assert _one(tmp_path, GOOD, rows=rows, width=640, height=480).codes == ["not_pixels"]


def test_byte_order_mark_carriage_returns_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    reading = _reading(tmp_path, f"\ufeff{GOOD}\r\n\r\n  \t\r\n{OTHER}", "strict")
    assert (reading.kept, reading.rows) == (2, [])
    assert reading.spelling == {"files_with_byte_order_mark": 1, "files_with_carriage_returns": 1, "blank_lines": 2}


def test_bytes_that_are_no_text_are_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    reading = _reading(tmp_path, b"\xff\xfe\x00\x01\x80\n" + GOOD.encode())
    assert (reading.kept, reading.refused) == (1, 1)


def test_a_label_file_that_cannot_be_read_is_refused_as_a_whole(tmp_path: Path) -> None:
    reading = Reading("fix")
    Rows(TWO).read(str(tmp_path), "labels/a.txt", Look(), reading)  # a folder
    assert [row.findings[0].fault.code for row in reading.rows] == ["unreadable_label"]


def test_without_names_every_class_is_called_by_its_id(tmp_path: Path) -> None:
    result = _one(tmp_path, "17 0.5 0.5 0.2 0.4", rows=Rows(Classes(None)))
    assert result.target is not None
    assert result.target.label == "class_17"


field = st.one_of(
    st.floats(-0.05, 1.05).map(str),
    st.sampled_from(["0", "1", "0.5", "nan", "inf", "-0", "1e-3", "x", "1,5", "0.99", "3"]),
    st.text("0123456789.-e \t", max_size=6),
)
row_of_text = st.lists(field, max_size=9).map(" ".join) | st.just(GOOD) | st.just("0 0.05 0.5 0.2 0.4 0.5")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(row_of_text, max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.sampled_from(get_args(Policy)),
)
def test_every_row_that_is_not_blank_is_accounted_for_once(
    tmp_path: Path, lines: list[str], newline: str, marked: bool, policy: Policy
) -> None:
    text = ("\ufeff" if marked else "") + newline.join(lines)
    reading = _reading(tmp_path, text, policy)
    written = [number for number, line in enumerate(lines, 1) if line.strip()]
    assert reading.annotations == len(written) == count_rows(str(tmp_path / "a.txt"))
    told = [row for row in reading.rows if row.annotations]
    assert {row.place.line for row in told} <= set(written)
    assert sum(row.status is Status.REFUSED for row in told) == reading.refused
    for target in reading.targets:
        x1, y1, x2, y2 = target.box.corners
        assert 0 <= x1 < x2 <= 1
        assert 0 <= y1 < y2 <= 1


number = st.one_of(
    st.floats(0, 1).map(lambda value: f"{value:.6f}"),
    st.sampled_from(
        ["0.5", ".5", "1", "1.", "+0.25", "5e-1", "0", "1e-7", "1.0000004", "-1e-7", "nan", "1_0", "0.5 0.5"]
    ),
)
faultless = st.tuples(st.sampled_from(["0", "1", "+1", "01", "2", "1.0"]), number, number, number, number).map(" ".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(faultless | st.just(GOOD) | st.just(""), max_size=5), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans()
)
def test_the_short_cut_gives_what_the_long_way_gives(
    tmp_path: Path, lines: list[str], newline: str, ended: bool
) -> None:
    text = newline.join(lines) + newline * ended
    assume(text)
    short = _reading(tmp_path, text)
    long = _reading(tmp_path, "\ufeff" + text)  # a mark that the short cut leaves to the other
    assert (short.targets, short.rows) == (long.targets, long.rows)
    assert (short.kept, short.fixed, short.refused) == (long.kept, long.fixed, long.refused)
    del long.spelling["files_with_byte_order_mark"]
    assert short.spelling == long.spelling


def test_the_table_of_faults_holds_every_fault_once_and_no_sentence_is_empty() -> None:
    assert len(FAULTS) > 30
    assert all(code == fault.code and fault.reason for code, fault in FAULTS.items())


@pytest.mark.parametrize(
    ("content", "answer"),
    [("0 0.5 0.5 1 1", True), ("", True), ("Hello, this is a dataset of cats.", False), ("cat\ndog\n", False)],
)
def test_a_label_file_is_told_from_a_letter_to_the_reader(tmp_path: Path, content: str, answer: bool) -> None:
    path = tmp_path / "x.txt"
    path.write_text(content)
    assert looks_like_rows(os.fspath(path)) is answer
