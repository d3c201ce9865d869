"""From a model's words to objects with boxes, and back. It knows no model and no picture.

Qwen3-VL is trained to answer `[{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}]` with coordinates in 0..1000 of the
displayed picture. What it says may deviate; the parser takes what can be understood and says what it did.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from vlyard.formats.box import Box
from vlyard.formats.broken_json import CutList, CutObject, read_values


class Flag(StrEnum):
    """What is unusual about one object."""

    SWAPPED_CORNERS = "swapped_corners"  # x1 > x2 or y1 > y2: put in order
    OVER_1000 = "over_1000"  # kept as it is; with many of them, the model may speak in pixels
    BELOW_0 = "below_0"  # kept as it is
    NUMBERS_AS_TEXT = "numbers_as_text"
    OTHER_BOX_KEY = "other_box_key"  # not `bbox_2d`
    OTHER_LABEL_KEY = "other_label_key"  # not `label`
    NO_LABEL = "no_label"  # the label is empty
    TRUNCATED = "truncated"  # the text ended or broke off inside this object: its label may be incomplete
    DUPLICATE = "duplicate"  # an object before it has the same label and box


class Note(StrEnum):
    """What is unusual about an answer as a whole. None of them stands beside a plain list, not even an empty one."""

    THOUGHT = "thought"  # it thought before it answered; what is inside <think> is left out
    FENCED = "fenced"  # in a Markdown fence
    PROSE = "prose"  # words before or after the answer
    SINGLE_OBJECT = "single_object"  # an object where a list is due
    WRAPPED = "wrapped"  # the list is inside an object, such as {"objects": [...]}
    LEGACY = "legacy"  # <|box_start|>(x1,y1),(x2,y2)<|box_end|>, as Qwen2-VL spoke
    TRUNCATED = "truncated"  # it broke off; the objects before that are there
    ENTRY_WITHOUT_BOX = "entry_without_box"  # at least one entry has no usable box and is left out
    NOTHING_FOUND = "nothing_found"  # no objects, and no list that says so


@dataclass(frozen=True)
class AnswerObject:
    """One object that the model named."""

    label: str
    box: Box  # in thousandths of the displayed picture
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What could be understood."""

    objects: tuple[AnswerObject, ...] = ()
    notes: tuple[Note, ...] = ()


_BOX_KEYS = ("bbox_2d", "bbox", "box")  # not `box_2d`: those who write it begin with y
_LABEL_KEYS = ("label", "text_content", "name", "category", "class_name", "class", "class_id")

_DEEPEST = 32  # levels of nesting
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_FENCE = re.compile(r"```[a-zA-Z0-9]*")
_POINT = r"\(\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\)"
_LEGACY = re.compile(
    r"<\|object_ref_start\|>(?P<label>(?:(?!<\|).)*)"
    rf"|<\|box_start\|>\s*{_POINT}\s*,\s*{_POINT}\s*(?P<end><\|box_end\|>)?",
    re.DOTALL,
)
_LEGACY_WORDS = re.compile(r"<\|(?:object_ref|box)_(?:start|end)\|>")


def write_answer(objects: Iterable[tuple[str, Box]]) -> str:
    """The answer that Qwen3-VL is trained to give, of labels and boxes in any frame."""
    entries = [{"bbox_2d": list(box.to_thousand()), "label": label} for label, box in objects]
    return json.dumps(entries, ensure_ascii=False)


def parse_answer(text: str) -> Answer:
    """Find the objects in a model's answer. Never raises; what was mended is in `flags` and `notes`."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, list | dict):
        objects, notes = _from_values([whole])
    else:
        objects, notes = _from_prose(text)
    return Answer(_duplicates_flagged(objects), tuple(dict.fromkeys(notes)))


def _from_prose(text: str) -> tuple[list[AnswerObject], list[Note]]:
    notes = []
    if "<think>" in text or "</think>" in text:
        notes.append(Note.THOUGHT)
        text = _without_thought(text)
    if "<|box_start|>" in text:
        objects, more = _from_legacy(text)
        return objects, [*notes, *more]
    values = list(read_values(text))
    found = [one for one in values if _is_answer(one[0])]
    if not found:
        cut = bool(values) and _is_cut(values[-1][0]) and not text[values[-1][2] :].strip()
        return [], [*notes, *([Note.TRUNCATED] if cut else []), Note.NOTHING_FOUND]
    around = text[: found[0][1]] + text[found[-1][2] :]
    if _FENCE.search(around):
        notes.append(Note.FENCED)
        around = _FENCE.sub("", around)
    if around.strip(" \t\r\n[]{},"):
        notes.append(Note.PROSE)
    objects, more = _from_values([value for value, _, _ in found])
    return objects, [*notes, *more]


def _without_thought(text: str) -> str:
    """What follows the last thought; of a thought that never ends, what precedes it."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def _from_legacy(text: str) -> tuple[list[AnswerObject], list[Note]]:
    label, objects, notes = "", [], [Note.LEGACY]
    for match in _LEGACY.finditer(text):
        if match["label"] is not None:
            label = _storable(match["label"].strip())
            continue
        flags = () if match["end"] else (Flag.TRUNCATED,)
        objects += [AnswerObject(label, box, (*flags, *more)) for box, more in _box_of(match.group(2, 3, 4, 5))]
    if any(Flag.TRUNCATED in each.flags for each in objects) or text.count("<|box_start|>") > len(objects):
        notes.append(Note.TRUNCATED)
    if _LEGACY_WORDS.sub("", _LEGACY.sub("", text)).strip(" \t\r\n,.()-0123456789"):
        notes.append(Note.PROSE)
    return objects, notes if objects else [*notes, Note.NOTHING_FOUND]


def _is_answer(value: Any) -> bool:
    """Something with entries, or an empty list; not the `[1]` or `{sic}` of the prose around."""
    return next(_entries(value), None) is not None or (not _is_cut(value) and _says_none(value))


def _says_none(value: Any) -> bool:
    return value == [] or (isinstance(value, dict) and [] in value.values())


def _is_cut(value: Any) -> bool:
    return isinstance(value, CutList | CutObject)


def _from_values(values: list[Any]) -> tuple[list[AnswerObject], list[Note]]:
    objects: list[AnswerObject] = []
    notes: list[Note] = []
    for value in values:
        if isinstance(value, dict):
            notes.append(Note.SINGLE_OBJECT if _box_key(value) else Note.WRAPPED)
        if _is_cut(value):
            notes.append(Note.TRUNCATED)
        for entry in _entries(value):
            made = list(_objects_of(entry))
            objects += made
            if not made and not _is_cut(entry):
                notes.append(Note.ENTRY_WITHOUT_BOX)
    if not objects and not any(_says_none(value) for value in values):
        notes.append(Note.NOTHING_FOUND)
    return objects, notes


def _entries(value: Any, listed: bool = False, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The objects that have a box, wherever they are, and those in lists that have none where one is due."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for each in value:
            yield from _entries(each, True, depth + 1)
    elif isinstance(value, dict):
        key = _box_key(value)
        inner = [each for name, each in value.items() if name != key and isinstance(each, list | dict)]
        if key or (listed and not inner):
            yield value
        for each in inner:
            yield from _entries(each, False, depth + 1)


def _box_key(entry: dict[str, Any]) -> str | None:
    return next((key for key in _BOX_KEYS if key in entry), None)


def _objects_of(entry: dict[str, Any]) -> Iterator[AnswerObject]:
    """None where the entry has no usable box; several where it has several boxes."""
    key = _box_key(entry)
    if key is None:
        return
    label, flags = _label_of(entry)
    if key != _BOX_KEYS[0]:
        flags = (*flags, Flag.OTHER_BOX_KEY)
    if _is_cut(entry):
        flags = (*flags, Flag.TRUNCATED)
    for numbers in _fours(entry[key]):
        for box, more in _box_of(numbers):
            as_text = (Flag.NUMBERS_AS_TEXT,) if any(isinstance(number, str) for number in numbers) else ()
            yield AnswerObject(label, box, (*flags, *as_text, *more))


def _label_of(entry: dict[str, Any]) -> tuple[str, tuple[Flag, ...]]:
    """The label, from whichever key holds it: prompts that ask for other attributes get them instead of `label`."""
    candidates = [key for key in _LABEL_KEYS if isinstance(entry.get(key), str | int | float)]
    candidates += [key for key, value in entry.items() if isinstance(value, str) and key not in _BOX_KEYS]
    if not candidates:
        return "", (Flag.NO_LABEL,)
    key = candidates[0]
    value = entry[key]
    label = f"{value:g}" if isinstance(value, float) else str(value)
    return _storable(label), () if key == _LABEL_KEYS[0] else (Flag.OTHER_LABEL_KEY,)


def _storable(label: str) -> str:
    """Without half characters and NUL, which neither UTF-8 nor a database's text can hold."""
    return label.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _fours(value: Any) -> list[Sequence[Any]]:
    """The groups of four numbers in a box's value: a list, a text, two points, or a list of lists."""
    if isinstance(value, str):
        numbers = _NUMBER.findall(value)
        return [numbers] if len(numbers) == 4 else []
    if not isinstance(value, list) or _is_cut(value):
        return []
    parts = [each for each in value if isinstance(each, list) and not _is_cut(each)]
    if not parts:
        return [value] if len(value) == 4 else []
    if len(parts) == 2 and all(len(each) == 2 for each in parts):
        return [[*parts[0], *parts[1]]]
    return [each for each in parts if len(each) == 4]


def _box_of(numbers: Sequence[Any]) -> list[tuple[Box, tuple[Flag, ...]]]:
    """The box of four numbers and what was mended, or nothing where they are no numbers."""
    values = [_number(each) for each in numbers]
    x1, y1, x2, y2 = values
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return []
    flags = []
    if x1 > x2 or y1 > y2:
        flags.append(Flag.SWAPPED_CORNERS)
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    if max(x2, y2) > 1000:
        flags.append(Flag.OVER_1000)
    if min(x1, y1) < 0:
        flags.append(Flag.BELOW_0)
    return [(Box.from_thousand((x1, y1, x2, y2)), tuple(flags))]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _duplicates_flagged(objects: list[AnswerObject]) -> tuple[AnswerObject, ...]:
    seen: set[tuple[str, Box]] = set()
    flagged = []
    for each in objects:
        repeated = (each.label, each.box) in seen
        seen.add((each.label, each.box))
        flagged.append(replace(each, flags=(*each.flags, Flag.DUPLICATE)) if repeated else each)
    return tuple(flagged)
