"""From the JSON of a model's answer to its objects, points and lines of text. It knows no prose and no tags."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlyard.formats.answer_parts import (
    AnswerLine,
    AnswerObject,
    AnswerPart,
    AnswerPoint,
    Flag,
    Note,
    box_of,
    plain_attributes,
    point_of,
    storable,
)
from vlyard.formats.broken_json import CutList, CutObject

_BOX_KEYS = ("bbox_2d", "bbox", "box")  # not `box_2d`: those who write it begin with y
_POINT_KEYS = ("point_2d", "point")
_TEXT_KEYS = ("text_content", "text")
_LABEL_KEYS = ("label", "name", "category", "class_name", "class", "class_id")
_PICTURE_KEYS = ("img_idx", "image_idx", "image_index")  # from 0
_MOST_PICTURES = 10_000

_DEEPEST = 32  # levels of nesting
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def is_answer(value: Any) -> bool:
    """Something with entries, or an empty list; not the `[1]` or `{sic}` of the prose around."""
    return next(_entries(value), None) is not None or (not is_cut(value) and says_none(value))


def says_none(value: Any) -> bool:
    """An empty list, or an object around one."""
    return value == [] or (isinstance(value, dict) and [] in value.values())


def is_cut(value: Any) -> bool:
    """It broke off."""
    return isinstance(value, CutList | CutObject)


def from_values(values: Sequence[Any]) -> tuple[list[AnswerPart], list[Note]]:
    """All that these values of JSON hold, and what is unusual about them."""
    parts: list[AnswerPart] = []
    notes: list[Note] = []
    for value in values:
        if isinstance(value, dict):
            notes.append(Note.SINGLE_OBJECT if places(value) else Note.WRAPPED)
        if is_cut(value):
            notes.append(Note.TRUNCATED)
        for entry in _entries(value):
            made = _parts_of(entry)
            parts += made
            if not made and not is_cut(entry):
                notes.append(Note.ENTRY_WITHOUT_BOX)
    if not parts and not any(says_none(value) for value in values):
        notes.append(Note.NOTHING_FOUND)
    return parts, notes


def _entries(value: Any, listed: bool = False, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The objects that have a place, wherever they are, and those in lists that have none where one is due."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for each in value:
            yield from _entries(each, True, depth + 1)
    elif isinstance(value, dict):
        keys = places(value)
        inner = [each for name, each in value.items() if name not in keys and isinstance(each, list | dict)]
        if keys or (listed and not inner):
            yield value
        for each in inner:
            yield from _entries(each, False, depth + 1)


def places(entry: Mapping[str, Any]) -> list[str]:
    """The keys that say where the entry is."""
    return [key for key in (*_BOX_KEYS, *_POINT_KEYS) if key in entry]


def _parts_of(entry: dict[str, Any]) -> list[AnswerPart]:
    """Empty where the entry has no usable place; several where it has several."""
    for key in places(entry):
        made = list(_pointed(entry, key) if key in _POINT_KEYS else _boxed(entry, key))
        if made:
            return made
    return []


def _boxed(entry: dict[str, Any], key: str) -> Iterator[AnswerPart]:
    text = next((name for name in _TEXT_KEYS if isinstance(entry.get(name), str)), None)
    if text == _TEXT_KEYS[1] and any(name in entry for name in _LABEL_KEYS):
        text = None  # a label beside plain `text` says that the text is only an attribute
    name, flags = _label_key(entry) if text is None else (text, _other(text, _TEXT_KEYS))
    picture, attributes, more = _about(entry, key, name)
    label = _spoken(entry, name)
    flags = (*flags, *_other(key, _BOX_KEYS, Flag.OTHER_BOX_KEY), *more)
    for numbers in _groups(entry[key], 4):
        for box, mended in box_of(numbers):
            said = (*flags, *_as_text(numbers), *mended)
            if text is None:
                yield AnswerObject(label, box, said, attributes, picture)
            else:
                yield AnswerLine(label, box, said, attributes, picture)


def _pointed(entry: dict[str, Any], key: str) -> Iterator[AnswerPart]:
    name, flags = _label_key(entry)
    picture, attributes, more = _about(entry, key, name)
    flags = (*flags, *_other(key, _POINT_KEYS, Flag.OTHER_BOX_KEY), *more)
    for numbers in _groups(entry[key], 2):
        for (x, y), mended in point_of(numbers):
            said = (*flags, *_as_text(numbers), *mended)
            yield AnswerPoint(_spoken(entry, name), x, y, said, attributes, picture)


def _about(entry: dict[str, Any], place: str, name: str | None) -> tuple[int | None, dict[str, Any], tuple[Flag, ...]]:
    """Which picture, what else was said, and whether that is all."""
    key = next((key for key in _PICTURE_KEYS if _is_picture(entry.get(key))), None)
    rest = {
        other: value
        for other, value in entry.items()
        if other not in (place, name, key)
        and next(_entries(value), None) is None  # objects inside stand for themselves
    }
    attributes, shortened = plain_attributes(rest)
    cut = (Flag.TRUNCATED,) if is_cut(entry) else ()
    return None if key is None else int(entry[key]), attributes, (*cut, *shortened)


def _is_picture(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < _MOST_PICTURES and value == int(value)


def _label_key(entry: dict[str, Any]) -> tuple[str | None, tuple[Flag, ...]]:
    """Whichever key holds the label: prompts that ask for other attributes get them instead of `label`."""
    candidates = [key for key in _LABEL_KEYS if isinstance(entry.get(key), str | int | float)]
    others = {*_BOX_KEYS, *_POINT_KEYS, *_PICTURE_KEYS}
    candidates += [key for key, value in entry.items() if isinstance(value, str) and key not in others]
    if not candidates:
        return None, (Flag.NO_LABEL,)
    return candidates[0], _other(candidates[0], _LABEL_KEYS)


def _other(key: str, usual: Sequence[str], flag: Flag = Flag.OTHER_LABEL_KEY) -> tuple[Flag, ...]:
    return () if key == usual[0] else (flag,)


def _spoken(entry: Mapping[str, Any], key: str | None) -> str:
    if key is None:
        return ""
    value = entry[key]
    return storable(f"{value:g}" if isinstance(value, float) else str(value))


def _as_text(numbers: Sequence[Any]) -> tuple[Flag, ...]:
    return (Flag.NUMBERS_AS_TEXT,) if any(isinstance(number, str) for number in numbers) else ()


def _groups(value: Any, count: int) -> list[Sequence[Any]]:
    """The groups of so many numbers in a place's value: a list, a text, two points for a box, or a list of lists."""
    if isinstance(value, str):
        numbers = _NUMBER.findall(value)
        return [numbers] if len(numbers) == count else []
    if not isinstance(value, list) or is_cut(value):
        return []
    parts = [each for each in value if isinstance(each, list) and not is_cut(each)]
    if not parts:
        return [value] if len(value) == count else []
    if count == 4 and len(parts) == 2 and all(len(each) == 2 for each in parts):
        return [[*parts[0], *parts[1]]]
    return [each for each in parts if len(each) == count]
