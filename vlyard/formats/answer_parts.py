"""What can be understood of a model's answer: boxes, points, lines of text, parts of a document, and what was mended.

It knows no form that a model writes these in. All of it can be stored as JSON: numbers are finite, texts are whole.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeAlias

from vlyard.formats.box import Box


class Flag(StrEnum):
    """What is unusual about one object."""

    SWAPPED_CORNERS = "swapped_corners"  # x1 > x2 or y1 > y2: put in order
    OVER_1000 = "over_1000"  # kept as it is; with many of them, the model may speak in pixels
    BELOW_0 = "below_0"  # kept as it is
    NUMBERS_AS_TEXT = "numbers_as_text"
    OTHER_BOX_KEY = "other_box_key"  # not `bbox_2d`, or for a point not `point_2d`
    OTHER_LABEL_KEY = "other_label_key"  # not `label`
    NO_LABEL = "no_label"  # the label is empty
    TRUNCATED = "truncated"  # the text ended or broke off inside this object: its label may be incomplete
    DUPLICATE = "duplicate"  # an object before it has the same label and place
    SHORTENED = "shortened"  # its text or its attributes were too much, or no JSON, to be kept whole
    NO_SUCH_PICTURE = "no_such_picture"  # it names a picture that was not shown


class Note(StrEnum):
    """What is unusual about an answer as a whole. None of them stands beside a plain list, not even an empty one."""

    THOUGHT = "thought"  # it thought before it answered; what is inside <think> is kept apart
    FENCED = "fenced"  # in a Markdown fence
    PROSE = "prose"  # words before or after the answer
    SINGLE_OBJECT = "single_object"  # an object where a list is due
    WRAPPED = "wrapped"  # the list is inside an object, such as {"objects": [...]}
    LEGACY = "legacy"  # <|box_start|>(x1,y1),(x2,y2)<|box_end|>, as Qwen2-VL spoke
    TRUNCATED = "truncated"  # it broke off; the objects before that are there
    ENTRY_WITHOUT_BOX = "entry_without_box"  # at least one entry has no usable place and is left out
    MAYBE_PIXELS = "maybe_pixels"  # several objects lie beyond 1000: these may be pixels, not thousandths
    NOTHING_FOUND = "nothing_found"  # no objects, and no list that says so


@dataclass(frozen=True)
class AnswerObject:
    """One object that the model named, with a box around it."""

    label: str
    box: Box  # in thousandths of the displayed picture
    flags: tuple[Flag, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)  # what else was said of it
    picture: int | None = None  # which picture, from 0, where the model says so


@dataclass(frozen=True)
class AnswerPoint:
    """One object that the model pointed at."""

    label: str
    x: float  # in thousandths of the displayed picture, as y
    y: float
    flags: tuple[Flag, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    picture: int | None = None


@dataclass(frozen=True)
class AnswerLine:
    """A line of text that the model read."""

    text: str
    box: Box
    flags: tuple[Flag, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    picture: int | None = None

    @property
    def label(self) -> str:
        """What it is called where all that matters is a name: its text."""
        return self.text


@dataclass(frozen=True)
class AnswerElement:
    """A part of a document, such as a heading or a table."""

    tag: str
    text: str
    box: Box
    flags: tuple[Flag, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    picture: int | None = None

    @property
    def label(self) -> str:
        """What it is called where all that matters is a name: its tag."""
        return self.tag


AnswerBoxed: TypeAlias = AnswerObject | AnswerLine | AnswerElement
AnswerPart: TypeAlias = AnswerBoxed | AnswerPoint


@dataclass(frozen=True)
class Answer:
    """What could be understood."""

    objects: tuple[AnswerPart, ...] = ()
    notes: tuple[Note, ...] = ()
    thought: str = ""
    counted: int | None = None  # the number, where the answer is one

    @property
    def boxed(self) -> tuple[AnswerBoxed, ...]:
        """Those of the objects that have a box."""
        return tuple(each for each in self.objects if not isinstance(each, AnswerPoint))


_ROOM = 256  # values in one object's attributes
_DEEPEST = 4  # levels of lists and tables in them
_LONGEST_KEY, _LONGEST_TEXT = 200, 2_000  # characters
_EXACT = 2**53  # beyond it, whole numbers are not the same in every JSON reader


def storable(text: str) -> str:
    """Without half characters and NUL, which neither UTF-8 nor a database's text can hold."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


def plain_attributes(said: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Flag, ...]]:
    """As much of a table as JSON can hold and a result should, and `SHORTENED` where that is not all."""
    keeper = _Keeper()
    kept: dict[str, Any] = keeper.keep(said, 0)
    return kept, () if keeper.whole else (Flag.SHORTENED,)


def _first(items: Iterable[tuple[str, Any]], count: int) -> list[tuple[str, Any]]:
    return [item for item, _ in zip(items, range(count), strict=False)]


@dataclass
class _Keeper:
    """Copies values until there is no more room."""

    room: int = _ROOM
    whole: bool = True  # nothing was left out

    def keep(self, value: Any, depth: int) -> Any:
        self.room -= 1
        if isinstance(value, str):
            self.whole &= len(value) <= _LONGEST_TEXT
            return storable(value[:_LONGEST_TEXT])
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return self._number(value)
        if depth >= _DEEPEST or self.room <= 0:
            self.whole = False
            return None
        if isinstance(value, Mapping):
            items = _first(value.items(), self.room)
            kept = {storable(name[:_LONGEST_KEY]): self.keep(each, depth + 1) for name, each in items}
            self.whole &= len(kept) == len(value) and all(len(name) <= _LONGEST_KEY for name, _ in items)
            return kept
        listed = value[: self.room]
        self.whole &= len(listed) == len(value)
        return [self.keep(each, depth + 1) for each in listed]

    def _number(self, value: float) -> float | None:
        if isinstance(value, int) and abs(value) <= _EXACT:
            return value
        finite = number(value)
        self.whole &= finite is not None
        return finite


def number(value: Any) -> float | None:
    """A finite number, also one that is written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def box_of(numbers: Sequence[Any]) -> list[tuple[Box, tuple[Flag, ...]]]:
    """The box of four numbers and what was mended, or nothing where they are no numbers."""
    x1, y1, x2, y2 = (number(each) for each in numbers)
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return []
    swapped = (Flag.SWAPPED_CORNERS,) if x1 > x2 or y1 > y2 else ()
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    return [(Box.from_thousand((x1, y1, x2, y2)), (*swapped, *_outside(x1, y1, x2, y2)))]


def point_of(numbers: Sequence[Any]) -> list[tuple[tuple[float, float], tuple[Flag, ...]]]:
    """The point of two numbers and what is unusual about it, or nothing where they are no numbers."""
    x, y = (number(each) for each in numbers)
    return [] if x is None or y is None else [((x, y), _outside(x, y))]


def _outside(*values: float) -> tuple[Flag, ...]:
    over = (Flag.OVER_1000,) if max(values) > 1000 else ()
    return (*over, Flag.BELOW_0) if min(values) < 0 else over


def duplicates_flagged(parts: Iterable[AnswerPart]) -> tuple[AnswerPart, ...]:
    """The same parts; those that repeat an earlier one are flagged."""
    seen: set[object] = set()
    flagged = []
    for each in parts:
        same = _same(each)
        flagged.append(replace(each, flags=(*each.flags, Flag.DUPLICATE)) if same in seen else each)
        seen.add(same)
    return tuple(flagged)


def _same(part: AnswerPart) -> object:
    match part:
        case AnswerPoint():
            return part.label, part.x, part.y, part.picture
        case AnswerObject():
            return part.label, part.box, part.picture
        case AnswerLine():
            return "", part.text, part.box, part.picture
        case AnswerElement():
            return part.tag, part.text, part.box, part.picture
