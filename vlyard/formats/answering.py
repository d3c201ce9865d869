"""From the objects of a question to the words that answer it. It knows no file format and no prompt.

The native answer is the top-level list that Qwen3-VL was trained on; the other shape wraps it in an object and gives
class ids. Every sample of a conversion passes here, so labels are spelled once, and the common case formats no value
twice.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vlyard.formats.box import Box
from vlyard.formats.options import Options
from vlyard.formats.record import Target, Value
from vlyard.formats.tree import storable

# What trainers count or replace in every turn: the first three LLaMA-Factory's and Qwen's, the others ms-swift's.
PLACEHOLDERS = ("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>")
_STEP = 0.001001  # of the picture: a side that is longer never has both edges on one thousandth
_RESERVED = frozenset({"bbox_2d", "point_2d", "label", "class_id", "role"})  # keys that no attribute may take


@dataclass(frozen=True, slots=True)
class Mention:
    """One entry of an answer: where, what, and the rest of it as it is written."""

    thousandths: tuple[int, ...]  # x1, y1, x2, y2, or x, y
    target: Target
    role: str = ""  # a keypoint's name


def answer_text(targets: Sequence[Target], options: Options) -> str:
    """What the model is to answer: JSON with ", " and ": " between, as `json.dumps` writes it, UTF-8 as it stands.

    Coordinates are integers in 0..1000, rounded half to even. A placeholder inside a label is spelled so that nobody
    takes it for one: the same JSON.
    """
    if is_plain(options):
        return f"[{', '.join(native_entry(quoted(each.label), *thousandths(each.box)) for each in targets)}]"
    entries = (
        entry_text(each, str(list(each.thousandths)), quoted(each.target.label), options)
        for each in mentions(targets, options)
    )
    return wrapped(entries, options)


def mentions(targets: Sequence[Target], options: Options) -> Iterator[Mention]:
    """The entries of an answer: a box for each target, or its visible keypoints, or else its centre."""
    for target in targets:
        if options.targets == "boxes":
            exact = options.to == "tutorial"
            yield Mention(target.box.to_thousand() if exact else thousandths(target.box), target)
            continue
        visible = [point for point in target.keypoints if point.visible]
        for point in visible:
            yield Mention((_thousandth(point.x), _thousandth(point.y)), target, point.name)
        if not visible:
            box = target.box
            yield Mention((_thousandth((box.x1 + box.x2) / 2), _thousandth((box.y1 + box.y2) / 2)), target)


def entry_text(mention: Mention, place: str, label: str, options: Options) -> str:
    """One entry, with the coordinates and the label as they are to be spelled; without a label where it is empty."""
    key = "bbox_2d" if options.targets == "boxes" else "point_2d"
    members = [f'"{key}": {place}', *([f'"label": {label}'] if label else [])]
    if options.answer == "objects":
        members.insert(0, f'"class_id": {mention.target.class_id}')
    if mention.role:
        members.append(f'"role": {quoted(mention.role)}')
    members += [f"{quoted(name)}: {_value(value)}" for name, value in _attributes(mention.target, options)]
    return f"{{{', '.join(members)}}}"


def wrapped(entries: Iterator[str], options: Options) -> str:
    """The entries in the shape that the options ask for."""
    listed = f"[{', '.join(entries)}]"
    return listed if options.answer == "native" else f'{{"objects": {listed}}}'


@lru_cache(maxsize=65_536)
def quoted(text: str) -> str:
    """The text as JSON, without a placeholder in it."""
    spelled = json.dumps(storable(text), ensure_ascii=False)
    for placeholder in PLACEHOLDERS:
        spelled = spelled.replace(placeholder, "\\u003c" + placeholder[1:])
    return spelled


def is_plain(options: Options) -> bool:
    """Whether answers are native boxes with labels, and nothing else."""
    return options.answer == "native" and options.targets == "boxes" and not options.attributes


def native_entry(label: str, x1: int, y1: int, x2: int, y2: int) -> str:
    """One entry of a native answer: the quoted label, and the box in thousandths."""
    return f'{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}], "label": {label}}}'


def thousandths(box: Box) -> tuple[int, int, int, int]:
    """The box as answers name it: with an area, also where it is thinner than the grid, so that it can be read back."""
    x1, y1, x2, y2 = box.to_thousand()
    if x1 == x2:
        x1, x2 = _apart(x1, (box.x1 + box.x2) * 500)
    if y1 == y2:
        y1, y2 = _apart(y1, (box.y1 + box.y2) * 500)
    return x1, y1, x2, y2


def has_no_area(box: Box) -> bool:
    """Whether the relative box has no area in thousandths."""
    if box.x2 - box.x1 > _STEP and box.y2 - box.y1 > _STEP:
        return False
    x1, y1, x2, y2 = box.to_thousand()
    return x1 == x2 or y1 == y2


def _apart(edge: int, middle: float) -> tuple[int, int]:
    """The two thousandths between which the middle of both edges lies."""
    first = min(edge if middle >= edge else edge - 1, 999)
    return first, first + 1


def _attributes(target: Target, options: Options) -> Iterator[tuple[str, Value]]:
    wanted = target.attributes if "*" in options.attributes else dict.fromkeys(options.attributes)
    for name in wanted:
        if name in target.attributes and name not in _RESERVED:
            yield name, target.attributes[name]


def _value(value: Value) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "null"  # JSON has no word for it
    return json.dumps(value)


def _thousandth(value: float) -> int:
    return round(min(max(value, 0.0), 1.0) * 1000)
