"""Every line of a label file is kept, fixed or refused, and nothing else happens to it."""

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlyard.formats.faults import FAULTS, Policy, Status
from vlyard.formats.yolo import CHECKS, Classes, LabelFile, LabelLine, count_lines, looks_like_labels

TWO = Classes({0: "cat", 1: "dog"})
GOOD = "1 0.5 0.5 0.2 0.4"


def _read(folder: Path, content: str | bytes, policy: Policy = "fix", classes: Classes = TWO) -> list[LabelLine]:
    path = folder / "a.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(LabelFile(path, classes, policy))


def test_a_good_line_is_kept_as_it_stands(tmp_path: Path) -> None:
    (line,) = _read(tmp_path, GOOD)
    assert line.status is Status.KEPT
    assert line.found is not None
    assert line.found.label == "dog"
    assert line.found.box.to_thousand() == (400, 300, 600, 700)


MENDED = [
    ("0 0.5 0.5 0.2 0.4 0.93", "confidence", (400, 300, 600, 700)),
    ("0.0 0.5 0.5 0.2 0.4", "class_as_decimal", (400, 300, 600, 700)),
    ("0 0.05 0.5 0.2 0.4", "outside", (0, 300, 150, 700)),
    ("0 1.005 0.5 0.2 0.4", "outside", (905, 300, 1000, 700)),
    ("0 -0.01 0.5 0.2 0.4", "outside", (0, 300, 90, 700)),
]


@pytest.mark.parametrize(("text", "code", "thousandths"), MENDED)
def test_a_fault_with_one_clear_mending_is_fixed(
    tmp_path: Path, text: str, code: str, thousandths: tuple[int, ...]
) -> None:
    (line,) = _read(tmp_path, text)
    assert line.status is Status.FIXED
    assert [finding.fault.code for finding in line.findings] == [code]
    assert line.found is not None
    assert line.found.label == "cat"
    assert line.found.box.to_thousand() == thousandths


REFUSED = [
    ("0 0.5 0.5 0.2", "wrong_field_count"),
    ("0 0.5 0.5 0.2 0.4 0.1 0.2", "wrong_field_count"),
    ("0 0.5 0.5 0.2 0.4 7", "wrong_field_count"),
    ("0,0.5,0.5,0.2,0.4", "wrong_field_count"),
    ("cat 0.5 0.5 0.2 0.4", "class_not_integer"),
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
    ("0 0.5 0.5 0.2 0,4", "not_a_number"),
    ("0 0.5 0.5 0_2 0.4", "not_a_number"),
    ("0 0.5 0.5 ٣ 0.4", "not_a_number"),
    ("0 0.5 0.5 0 0.4", "no_area"),
    ("0 0.5 0.5 0.2 -0.4", "no_area"),
    ("0 340 200 60 80", "far_outside"),
    ("0 1.02 0.5 0.2 0.4", "far_outside"),
    ("0 1.01 0.5 0.005 0.4", "not_in_picture"),
    ("0 0.5 0.5 0.2 " + "4" * 70_000, "line_too_long"),
]


@pytest.mark.parametrize(("text", "code"), REFUSED, ids=[text[:30] for text, _ in REFUSED])
@pytest.mark.parametrize("policy", ["fix", "skip"])
def test_a_fault_without_a_clear_mending_is_refused_with_its_line(
    tmp_path: Path, text: str, code: str, policy: Policy
) -> None:
    before, faulty, after = _read(tmp_path, f"0 0.3 0.3 0.1 0.1\n{text}\n{GOOD}\n", policy)
    assert (before.status, after.status) == (Status.KEPT, Status.KEPT)
    assert (faulty.number, faulty.status, faulty.found) == (2, Status.REFUSED, None)
    assert faulty.findings[-1].fault.code == code
    assert len(faulty.findings[-1].reason) < 200


@pytest.mark.parametrize(("text", "code", "thousandths"), MENDED)
def test_under_skip_nothing_is_mended(tmp_path: Path, text: str, code: str, thousandths: tuple[int, ...]) -> None:
    (line,) = _read(tmp_path, text, "skip")
    assert (line.status, line.found) == (Status.REFUSED, None)
    assert line.findings[0].fault.code == code


def test_a_second_equal_line_is_dropped_and_accounted_for(tmp_path: Path) -> None:
    first, other, second = _read(tmp_path, f"{GOOD}\n0 0.5 0.5 0.2 0.4\n1  0.50 0.5 0.2 0.4\n")
    assert first.found is not None
    assert other.found is not None  # another class in the same place
    assert (second.status, second.found) == (Status.FIXED, None)
    assert "line 1" in second.findings[0].reason


def test_a_line_is_no_duplicate_of_one_that_was_refused(tmp_path: Path) -> None:
    with_confidence, without = _read(tmp_path, f"{GOOD} 0.9\n{GOOD}\n", "skip")
    assert with_confidence.status is Status.REFUSED
    assert without.status is Status.KEPT


def test_an_edge_that_rounding_put_outside_is_no_fault(tmp_path: Path) -> None:
    (line,) = _read(tmp_path, "0 0.916667 0.5 0.166667 0.4")  # right edge at 1.0000005
    assert line.status is Status.KEPT
    assert line.found is not None
    assert line.found.box.to_thousand() == (833, 300, 1000, 700)


def test_byte_order_mark_carriage_returns_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(f"\ufeff{GOOD}\r\n\r\n  \t\r\n0 0.3 0.3 0.1 0.1".encode())
    file = LabelFile(path, TWO, "strict")
    lines = list(file)
    assert [(line.number, line.status) for line in lines] == [(1, Status.KEPT), (4, Status.KEPT)]
    assert file.spelling.byte_order_mark
    assert file.spelling.carriage_returns
    assert file.spelling.blank_lines == 2


def test_bytes_that_are_no_text_are_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    noise, good = _read(tmp_path, b"\xff\xfe\x00\x01\x80\n" + GOOD.encode())
    assert noise.status is Status.REFUSED
    assert good.status is Status.KEPT


def test_without_names_every_class_is_called_by_its_id(tmp_path: Path) -> None:
    (line,) = _read(tmp_path, "17 0.5 0.5 0.2 0.4", classes=Classes(None))
    assert line.found is not None
    assert line.found.label == "class_17"


field = st.one_of(
    st.floats(-0.05, 1.05).map(str),
    st.sampled_from(["0", "1", "0.5", "nan", "inf", "-0", "1e-3", "x", "1,5", "0.99", "3"]),
    st.text("0123456789.-e \t", max_size=6),
)
line_of_text = st.lists(field, max_size=8).map(" ".join) | st.just(GOOD) | st.just("0 0.05 0.5 0.2 0.4 0.5")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(line_of_text, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from(get_args(Policy)),
)
def test_every_line_that_is_not_blank_is_accounted_for_once(
    tmp_path: Path, lines: list[str], newline: str, marked: bool, policy: Policy
) -> None:
    text = ("\ufeff" if marked else "") + newline.join(lines)
    read = _read(tmp_path, text, policy)
    written = [number for number, line in enumerate(lines, 1) if line.strip()]
    assert [line.number for line in read] == written
    assert count_lines(tmp_path / "a.txt") == len(written)
    for line in read:
        assert line.status in {Status.KEPT, Status.FIXED, Status.REFUSED}
        assert bool(line.findings) == (line.status is not Status.KEPT)
        if line.found is not None:
            x1, y1, x2, y2 = line.found.box.corners
            assert 0 <= x1 < x2 <= 1
            assert 0 <= y1 < y2 <= 1


def test_the_table_of_faults_holds_every_fault_once_and_no_sentence_is_empty() -> None:
    assert len(FAULTS) >= len(CHECKS)
    assert all(code == fault.code and fault.reason for code, fault in FAULTS.items())


@pytest.mark.parametrize(
    ("content", "answer"),
    [("0 0.5 0.5 1 1", True), ("", True), ("Hello, this is a dataset of cats.", False), ("cat\ndog\n", False)],
)
def test_a_label_file_is_told_from_a_letter_to_the_reader(tmp_path: Path, content: str, answer: bool) -> None:
    path = tmp_path / "x.txt"
    path.write_text(content)
    assert looks_like_labels(path) is answer
