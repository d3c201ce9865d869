"""From a model's words to objects with boxes, and back. It knows no model and no picture.

Qwen3-VL is trained to answer `[{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}]` with coordinates in 0..1000 of the
displayed picture. What it says may deviate; the parser takes what can be understood and says what it did.
"""

import json
import re
from collections.abc import Iterable, Sequence

from vlyard.formats.answer_entries import from_values, is_answer, is_cut
from vlyard.formats.answer_parts import (
    Answer,
    AnswerElement,
    AnswerLine,
    AnswerObject,
    AnswerPart,
    AnswerPoint,
    Flag,
    Note,
    box_of,
    duplicates_flagged,
    storable,
)
from vlyard.formats.box import Box
from vlyard.formats.broken_json import read_values
from vlyard.formats.counted import counted
from vlyard.formats.documents import read_document

__all__ = [
    "Answer",
    "AnswerElement",
    "AnswerLine",
    "AnswerObject",
    "AnswerPart",
    "AnswerPoint",
    "Flag",
    "Note",
    "parse_answer",
    "write_answer",
]

_FENCE = re.compile(r"```[a-zA-Z0-9]*")
_POINT = r"\(\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\)"
_LEGACY = re.compile(
    r"<\|object_ref_start\|>(?P<label>(?:(?!<\|).)*)"
    rf"|<\|box_start\|>\s*{_POINT}\s*,\s*{_POINT}\s*(?P<end><\|box_end\|>)?",
    re.DOTALL,
)
_LEGACY_WORDS = re.compile(r"<\|(?:object_ref|box)_(?:start|end)\|>")
_CUT_WORD = re.compile(r"<(?:\|\w*\|?)?$")


def write_answer(objects: Iterable[tuple[str, Box]]) -> str:
    """The answer that Qwen3-VL is trained to give, of labels and boxes in any frame."""
    entries = [{"bbox_2d": list(box.to_thousand()), "label": label} for label, box in objects]
    return json.dumps(entries, ensure_ascii=False)


def parse_answer(text: str) -> Answer:
    """Find the objects in a model's answer. Never raises; what was mended is in `flags` and `notes`.

    Takes time in proportion to the text's length.
    """
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, list | dict):
        thought, said = "", text
        parts, notes = from_values([whole])
        number = counted(text, [whole])
    else:
        thought, said = _thought_apart(text)
        parts, notes, number = _from_prose(said)
        if said is not text:
            notes = [Note.THOUGHT, *notes]
    if _maybe_pixels(parts):
        notes.append(Note.MAYBE_PIXELS)
    return Answer(duplicates_flagged(parts), tuple(dict.fromkeys(notes)), storable(thought), number)


def _thought_apart(text: str) -> tuple[str, str]:
    """The thoughts, and what follows the last; of a thought that never ends, what precedes it."""
    if "<think>" not in text and "</think>" not in text:
        return "", text
    before, _, after = text.rpartition("</think>")
    said, _, unfinished = after.partition("<think>")
    thoughts = re.split(r"</?think>", f"{before}</think>{unfinished}")
    return "\n".join(thought.strip() for thought in thoughts if thought.strip()), said


def _maybe_pixels(parts: Sequence[AnswerPart]) -> bool:
    over = sum(Flag.OVER_1000 in part.flags for part in parts)
    return over >= 2 and 3 * over >= len(parts)


def _from_prose(text: str) -> tuple[list[AnswerPart], list[Note], int | None]:
    if "<|box_start|>" in text:
        return *_from_legacy(text), None
    values = list(read_values(text))
    found = [one for one in values if is_answer(one[0])]
    parts, more = from_values([value for value, _, _ in found])
    document, notes = ([], []) if parts else read_document(text)
    if document:
        return document, notes, None
    number = counted(text, [value for value, _, _ in found or values])
    if found:
        return parts, [*_around(text[: found[0][1]] + text[found[-1][2] :]), *more], number
    if values and is_cut(values[-1][0]) and not text[values[-1][2] :].strip():
        notes = [*notes, Note.TRUNCATED]
    return [], [*notes, Note.NOTHING_FOUND], number


def _around(text: str) -> list[Note]:
    """What stands before and after the JSON of an answer."""
    notes = []
    if _FENCE.search(text):
        notes.append(Note.FENCED)
        text = _FENCE.sub("", text)
    if text.strip(" \t\r\n[]{},"):
        notes.append(Note.PROSE)
    return notes


def _from_legacy(text: str) -> tuple[list[AnswerPart], list[Note]]:
    label, notes, unfinished = "", [Note.LEGACY], False
    text, cut = _CUT_WORD.subn("", text)
    objects: list[AnswerPart] = []
    for match in _LEGACY.finditer(text):
        unfinished = match["label"] is not None  # a label is followed by its boxes
        if unfinished:
            label = storable(match["label"].strip())
            continue
        flags = () if match["end"] else (Flag.TRUNCATED,)
        objects += [AnswerObject(label, box, (*flags, *more)) for box, more in box_of(match.group(2, 3, 4, 5))]
    unfinished = unfinished or text.count("<|box_start|>") > len(objects)
    if cut or unfinished or any(Flag.TRUNCATED in each.flags for each in objects):
        notes.append(Note.TRUNCATED)
    if _LEGACY_WORDS.sub("", _LEGACY.sub("", text)).strip(" \t\r\n,.()-0123456789"):
        notes.append(Note.PROSE)
    return objects, notes if objects else [*notes, Note.NOTHING_FOUND]
