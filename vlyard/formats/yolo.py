"""Reading one YOLO detection label file: `class centre_x centre_y width height`, in 0..1 of the displayed picture.

Each line goes through the checks in their order; a check passes it on, mends it or refuses it. It knows no folders.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from vlyard.formats import faults
from vlyard.formats.box import Box
from vlyard.formats.faults import Finding, Policy, Status, judge

LINE_LIMIT = 65_536  # characters
_TOLERANCE = 0.01  # how far a value may leave 0..1 and still be a slip: the tolerance of Ultralytics' label check
_NOISE = 1e-6  # an edge this far outside is the rounding of six written digits, not a fault
_FIELDS = ("class", "centre x", "centre y", "width", "height")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Classes:
    """The names of the classes by id; `names` is None where the data set has none, and every id >= 0 is allowed."""

    names: Mapping[int, str] | None

    def label(self, class_id: int) -> str | None:
        """The class's name, `class_<id>` in a set without names, None where there is no such class."""
        if self.names is None:
            return f"class_{class_id}" if class_id >= 0 else None
        return self.names.get(class_id)

    @property
    def known(self) -> str:
        """The ids that exist, in words."""
        if not self.names:
            return "ids begin at 0"
        return f"the ids are {min(self.names)} to {max(self.names)}"


@dataclass(frozen=True)
class Found:
    """An object that a label line describes."""

    label: str
    box: Box


@dataclass(frozen=True)
class LabelLine:
    """One line that is not blank, and what became of it. `found` is None where it was refused or dropped."""

    number: int  # from 1
    status: Status
    found: Found | None
    findings: tuple[Finding, ...] = ()


@dataclass
class Spelling:
    """How the file was written, where that changes nothing."""

    blank_lines: int = 0
    byte_order_mark: bool = False
    carriage_returns: bool = False


@dataclass(frozen=True)
class _Draft:
    """A line on its way through the checks."""

    fields: tuple[str, ...]
    classes: Classes
    class_id: int = -1
    values: tuple[float, float, float, float] = (0, 0, 0, 0)
    box: Box | None = None
    findings: tuple[Finding, ...] = ()

    def mended(self, finding: Finding) -> "_Draft":
        return replace(self, findings=(*self.findings, finding))


class _Refused(Exception):  # it ends the checks, and never leaves this module
    def __init__(self, finding: Finding) -> None:
        self.finding = finding


@dataclass
class LabelFile:
    """A label file that is read line by line: iterate over it once, then look at its `spelling`.

    Raises `OSError` where the file cannot be read. Bytes that are no UTF-8 are refused with their line.
    """

    path: Path
    classes: Classes
    policy: Policy
    spelling: Spelling = field(default_factory=Spelling)

    def __iter__(self) -> Iterator[LabelLine]:
        first_lines: dict[object, int] = {}  # accepted box -> its line
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for number, text in _lines(file, self.spelling):
                yield _judged(number, text, self.classes, self.policy, first_lines)
            self.spelling.carriage_returns = bool(file.newlines) and file.newlines != "\n"


def count_lines(path: Path) -> int:
    """How many lines of a label file are not blank; 0 where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return sum(1 for _ in _lines(file, Spelling()))
    except OSError:
        return 0


def looks_like_labels(path: Path) -> bool:
    """Whether the first line that is not blank begins like a label: an empty file does, a letter to the reader not."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for _, text in _lines(file, Spelling()):
                fields = text.split()
                return len(fields) >= 5 and all(map(_DECIMAL.fullmatch, fields[:5]))
    except OSError:
        return False
    return True


def _lines(file: TextIO, spelling: Spelling) -> Iterator[tuple[int, str]]:
    number = 0
    while text := file.readline(LINE_LIMIT + 1):
        number += 1
        if number == 1 and text.startswith("\ufeff"):
            spelling.byte_order_mark = True
            text = text[1:]
        while len(text) > LINE_LIMIT and not text.endswith("\n"):
            rest = file.readline(LINE_LIMIT)
            if not rest or rest.endswith("\n"):
                break
        if text.strip():
            yield number, text
        else:
            spelling.blank_lines += 1


def _judged(number: int, text: str, classes: Classes, policy: Policy, first_lines: dict[object, int]) -> LabelLine:
    draft = _Draft(tuple(text.split()), classes)
    try:
        if len(text) > LINE_LIMIT:
            raise _Refused(faults.LINE_TOO_LONG.found(limit=LINE_LIMIT))  # noqa: TRY301
        for check in CHECKS:
            draft = check(draft)
    except _Refused as refused:
        return LabelLine(number, Status.REFUSED, None, (*draft.findings, refused.finding))
    key = (draft.class_id, draft.values)
    first = first_lines.get(key)
    if first is not None:
        draft = draft.mended(faults.DUPLICATE.found(first=first))
    status = judge(draft.findings, policy)
    if status is Status.REFUSED or first is not None:
        return LabelLine(number, status, None, draft.findings)
    first_lines[key] = number
    label = classes.label(draft.class_id)
    assert label is not None
    assert draft.box is not None
    return LabelLine(number, status, Found(label, draft.box), draft.findings)


def _five_fields(draft: _Draft) -> _Draft:
    fields = draft.fields
    if len(fields) == 6 and _DECIMAL.fullmatch(fields[5]) and 0 <= float(fields[5]) <= 1:
        draft = replace(draft, fields=fields[:5])
        return draft.mended(faults.CONFIDENCE.found(value=_quoted(fields[5])))
    if len(fields) != 5:
        raise _Refused(faults.WRONG_FIELD_COUNT.found(count=len(fields)))
    return draft


def _known_class(draft: _Draft) -> _Draft:
    written = draft.fields[0]
    if _INTEGER.fullmatch(written):
        draft = replace(draft, class_id=int(written))
    elif _DECIMAL.fullmatch(written) and float(written).is_integer() and abs(float(written)) < 1e15:
        draft = replace(draft, class_id=int(float(written)))
        draft = draft.mended(faults.CLASS_AS_DECIMAL.found(value=_quoted(written), id=draft.class_id))
    else:
        raise _Refused(faults.CLASS_NOT_INTEGER.found(value=_quoted(written)))
    if draft.classes.label(draft.class_id) is None:
        raise _Refused(faults.CLASS_OUT_OF_RANGE.found(value=draft.class_id, known=draft.classes.known))
    return draft


def _numbers(draft: _Draft) -> _Draft:
    for name, written in zip(_FIELDS[1:], draft.fields[1:], strict=True):
        if _SPECIAL.fullmatch(written) or (_DECIMAL.fullmatch(written) and not math.isfinite(float(written))):
            raise _Refused(faults.NOT_FINITE.found(field=name, value=_quoted(written)))
        if not _DECIMAL.fullmatch(written):
            raise _Refused(faults.NOT_A_NUMBER.found(field=name, value=_quoted(written)))
    x, y, width, height = map(float, draft.fields[1:])
    return replace(draft, values=(x, y, width, height))


def _some_area(draft: _Draft) -> _Draft:
    *_, width, height = draft.values
    if width <= 0 or height <= 0:
        raise _Refused(faults.NO_AREA.found(width=width, height=height))
    return draft


def _near_the_picture(draft: _Draft) -> _Draft:
    for name, value in zip(_FIELDS[1:], draft.values, strict=True):
        if not -_TOLERANCE <= value <= 1 + _TOLERANCE:
            raise _Refused(faults.FAR_OUTSIDE.found(field=name, value=value))
    return draft


def _in_the_picture(draft: _Draft) -> _Draft:
    box = Box.from_centre(*draft.values)
    inside = box.clamped()
    if inside.x1 >= inside.x2 or inside.y1 >= inside.y2:
        raise _Refused(faults.NOT_IN_PICTURE.found())
    excess = max(abs(a - b) for a, b in zip(box.corners, inside.corners, strict=True))
    draft = replace(draft, box=inside)
    return draft.mended(faults.OUTSIDE.found(excess=excess)) if excess > _NOISE else draft


CHECKS: tuple[Callable[[_Draft], _Draft], ...] = (
    _five_fields,
    _known_class,
    _numbers,
    _some_area,
    _near_the_picture,
    _in_the_picture,
)


def _quoted(written: str) -> str:
    return repr(written if len(written) <= 40 else written[:39] + "…")
