"""One sample of a training set of pictures, questions and answers: which picture, and which objects the answer names.

It knows the shapes of LLaMA-Factory, Qwen's finetuning code, ms-swift and TRL, and no file.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlyard.formats import faults
from vlyard.formats.answer import AnswerElement, AnswerPart, AnswerPoint, Flag, Note, parse_answer
from vlyard.formats.faults import Finding
from vlyard.formats.readers.values import attributes, numbers, shown
from vlyard.formats.reading import Refused
from vlyard.formats.record import Value
from vlyard.formats.tree import storable

_USER, _MODEL, _SYSTEM = frozenset({"user", "human"}), frozenset({"assistant", "gpt", "model"}), "system"
_FENCED = re.compile(r"\s*```[a-zA-Z0-9]*\s(.*)```\s*", re.DOTALL)
_SLOT = re.compile(r"<ref-object>|<bbox>")
_BOX, _POINTS = "bbox_2d", ("point_2d", "point")
_NO_ATTRIBUTES = frozenset(
    {
        "bbox_2d", "bbox", "box", "point_2d", "point", "role",
        "label", "text_content", "name", "category", "class_name", "class", "class_id",
    }
)  # fmt: skip
_DAMAGED = {
    Note.TRUNCATED: "cut off",
    Note.ENTRY_WITHOUT_BOX: "in part without boxes",
}
_MENDED = {
    Flag.SWAPPED_CORNERS: faults.SWAPPED_CORNERS.found(),
    Flag.NUMBERS_AS_TEXT: faults.NUMBER_AS_TEXT.found(field="the box"),
}


@dataclass(frozen=True, slots=True)
class Named:
    """An object that an answer names, or why an entry of it is none."""

    label: str
    corners: tuple[float, float, float, float] = (0, 0, 0, 0)  # of the picture, or in pixels
    in_pixels: bool = False
    is_point: bool = False
    role: str = ""  # a keypoint's name
    attributes: Mapping[str, Value] | None = None
    findings: tuple[Finding, ...] = ()
    refused: Finding | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a sample says."""

    picture: str  # its path as it is written
    named: tuple[Named, ...]


def read_sample(said: object, *, in_pixels: bool = False) -> Sample:
    """What a sample says, or the error of reading it as JSON; `in_pixels` says that boxes are corners in pixels.

    Raises `Refused` where it is not of one picture, one question and one answer that names objects.
    """
    if isinstance(said, ValueError):
        raise _unusable(f"this is not JSON: {said}")
    if not isinstance(said, dict):
        raise _unusable(f"it is {shown(said)}, and must be a table")
    turns = list(_turns(said))
    spoken = [(role, content) for role, content in turns if role != _SYSTEM]
    if [role in _MODEL for role, _ in spoken] not in ([False, True], [True]) or spoken[0][0] not in _USER | _MODEL:
        roles = ", ".join(storable(role)[:20] for role, _ in spoken[:8])
        raise _unusable(f"it has {len(spoken)} turns ({roles}), and only one question with its answer is read")
    pictures = list(dict.fromkeys(_pictures(said, [content for _, content in turns])))
    if len(pictures) != 1:
        raise _unusable(f"it has {len(pictures)} pictures, and only samples of one are read")
    if re.match(r"(https?|data|s3|oss):", pictures[0]):
        raise _unusable("its picture is not a file of the data set; addresses are not fetched")
    objects = said.get("objects")
    slots = _Slots(objects) if isinstance(objects, dict) else None
    for _, content in turns[:-1]:
        if slots is not None:
            slots.fill(_text(content))
    named = [*_named(_text(spoken[-1][1]), slots), *(slots.left() if slots is not None else ())]
    if in_pixels and slots is None:  # ms-swift says itself what its boxes are
        named = list(map(_as_pixels, named))
    return Sample(pictures[0].removeprefix("file://"), tuple(named))


def _as_pixels(named: Named) -> Named:
    x1, y1, x2, y2 = (round(value * 1000, 6) for value in named.corners)
    return replace(named, corners=(x1, y1, x2, y2), in_pixels=True)


def _unusable(damage: str) -> Refused:
    return Refused(faults.ENTRY_UNUSABLE.found(damage=damage))


def _turns(said: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Role and content of each turn, in whichever words."""
    listed: list[object] = []
    for key in ("messages", "conversations", "prompt", "completion"):
        found = said.get(key)
        listed += found if isinstance(found, list) else []
    for turn in listed:
        if not isinstance(turn, dict):
            raise _unusable(f"one of its turns is {shown(turn)}")
        role = turn.get("role", turn.get("from"))
        yield str(role), turn.get("content", turn.get("value"))


def _text(content: object) -> str:
    """The words of a turn, which may be in parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _pictures(said: Mapping[str, Any], contents: Sequence[object]) -> Iterator[str]:
    for key in ("images", "image"):
        found = said.get(key)
        for each in found if isinstance(found, list) else [found]:
            yield from _path(each)
    for content in contents:
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict):
                for key in ("image", "path", "url", "image_url"):
                    yield from _path(part.get(key))


def _path(said: object) -> Iterator[str]:
    if isinstance(said, dict):
        said = said.get("path") or said.get("url")
    if isinstance(said, str) and said:
        yield said


# --- the answer -----------------------------------------------------------------------------------------------


class _Slots:
    """ms-swift's `objects`: what stands for `<ref-object>` and `<bbox>`, in the order of the turns."""

    def __init__(self, objects: Mapping[str, Any]) -> None:
        refs, boxes = objects.get("ref"), objects.get("bbox")
        self.refs = [str(ref) for ref in refs] if isinstance(refs, list) else []
        self.boxes = boxes if isinstance(boxes, list) else []
        self.kind = shown(objects.get("bbox_type") or "real").strip("'")
        self._refs, self._boxes, self._label = iter(self.refs), iter(range(len(self.boxes))), ""
        self.loose: list[tuple[str, int]] = []  # label and box of each, where an answer is not JSON

    def fill(self, text: str) -> str:
        """The text with its slots filled; a box as `[[number of the box]]`."""
        self.loose = []
        pieces, behind = [], 0
        for slot in _SLOT.finditer(text):
            pieces.append(text[behind : slot.start()])
            behind = slot.end()
            try:
                if slot[0] == "<bbox>":
                    place = next(self._boxes)
                    self.loose.append((self._label, place))
                    pieces.append(f"[[{place}]]")
                else:
                    self._label = next(self._refs)
                    pieces.append(self._label)
            except StopIteration:
                raise _unusable(f"its turns have more {slot[0]} than its objects fill") from None
        return "".join([*pieces, text[behind:]])

    def left(self) -> Iterator[Named]:
        """The boxes that no turn has a slot for, each refused."""
        for place in self._boxes:
            finding = faults.ENTRY_UNUSABLE.found(damage=f"no <bbox> in its turns stands for objects.bbox[{place}]")
            yield Named("", refused=finding)

    def number(self, said: object) -> int | None:
        """Which box stands in a filled slot; None where something else does."""
        inner = said[0] if isinstance(said, list) and len(said) == 1 else None
        number = inner[0] if isinstance(inner, list) and len(inner) == 1 else None
        return number if isinstance(number, int) and 0 <= number < len(self.boxes) else None

    def box(self, label: str, place: int) -> Named:
        """The object of one box. Raises `Refused`."""
        if self.kind not in {"real", "norm1"}:
            due = "real or norm1"
            raise Refused(faults.MALFORMED.found(field="bbox_type", value=self.kind, due=due))
        box = self.boxes[place]
        is_point = isinstance(box, list) and len(box) == 2
        values, findings = numbers("bbox", box, 2 if is_point else 4)
        x1, y1, x2, y2 = values * 2 if is_point else values
        return Named(label, (x1, y1, x2, y2), self.kind == "real", is_point, findings=findings)


def _named(text: str, slots: _Slots | None) -> Iterator[Named]:
    if slots is not None:
        text = slots.fill(text)
    fenced = _FENCED.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        value = None
    entries = _entries(value)
    if entries is not None:
        for entry in entries:
            yield from _of_entry(entry, slots)
    elif slots is not None and slots.loose:
        for label, place in slots.loose:
            yield _guarded(slots, label, place)
    else:
        yield from _of_text(text)


def _entries(value: object) -> list[object] | None:
    """The entries of an answer in a plain shape; None where it is in another one."""
    if isinstance(value, dict):
        if value.keys() & {_BOX, *_POINTS}:
            return [value]
        inner = [each for each in value.values() if isinstance(each, list)]
        value = inner[0] if len(inner) == 1 else None
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return None
    plain = all(each.keys() & {_BOX, *_POINTS} for each in value)
    return value if plain else None


def _of_entry(entry: Any, slots: _Slots | None) -> Iterator[Named]:
    given = attributes(entry, _NO_ATTRIBUTES)
    label = _label(entry)
    place = next((key for key in (_BOX, *_POINTS) if key in entry), _BOX)
    said = entry[place]
    number = None if slots is None else slots.number(said)
    if slots is not None and number is not None:
        yield replace(_guarded(slots, label, number), attributes=given)
        return
    if place in _POINTS:
        yield from _points(label, said, str(entry.get("role") or ""), given)
        return
    if _is_plain(said):
        x1, y1, x2, y2 = (each / 1000 for each in said)
        yield Named(label, (x1, y1, x2, y2), attributes=given)
        return
    found = parse_answer(json.dumps([{_BOX: said, "label": label}])).objects
    for each in found:
        yield replace(_of_object(each), attributes=given)
    if not found:
        refused = faults.MALFORMED.found(field=_BOX, value=shown(said), due="four numbers")
        yield Named(label, refused=refused)


def _is_plain(said: Any) -> bool:
    """Whether it is as nearly all are: then the parser would say the same, and need not be asked."""
    four = isinstance(said, list) and [type(each) for each in said] == [int] * 4
    return four and 0 <= said[0] <= said[2] <= 1000 and 0 <= said[1] <= said[3] <= 1000


def _guarded(slots: _Slots, label: str, place: int) -> Named:
    try:
        return slots.box(label, place)
    except Refused as refused:
        return Named(label, refused=refused.finding)


def _label(entry: Mapping[str, Any]) -> str:
    """The class; where the tutorial's script knew no name, it is called after its id."""
    class_id = entry.get("class_id")
    plain = entry.get("label")
    if isinstance(plain, str):
        return plain
    known = parse_answer(json.dumps([{**entry, _BOX: [0, 0, 1, 1]}])).boxed[0].label
    return f"class_{class_id}" if isinstance(class_id, int) and known == str(class_id) else known


def _points(label: str, said: object, role: str, given: Mapping[str, Value]) -> Iterator[Named]:
    several = isinstance(said, list) and bool(said) and all(isinstance(each, list) for each in said)
    for each in said if several and isinstance(said, list) else [said]:
        try:
            (x, y), findings = numbers("point_2d", each, 2)
        except Refused as refused:
            yield Named(label, refused=refused.finding)
        else:
            x, y = x / 1000, y / 1000
            yield Named(label, (x, y, x, y), False, True, role, given, findings)


def _of_text(text: str) -> Iterator[Named]:
    """What can be understood of an answer in another shape. Raises `Refused` where that is nothing."""
    answer = parse_answer(text)
    is_document = any(isinstance(each, AnswerElement) for each in answer.objects)  # its tags are no classes
    if Note.NOTHING_FOUND in answer.notes or is_document:
        raise Refused(faults.NO_OBJECTS.found(answer=shown(text)))
    words = " and ".join(_DAMAGED[note] for note in answer.notes if note in _DAMAGED)
    damage = (faults.ANSWER_DAMAGED.found(damage=words),) if words else ()
    for each in answer.objects:
        named = _of_object(each)
        yield replace(named, findings=(*named.findings, *damage))


def _of_object(each: AnswerPart) -> Named:
    findings = tuple(_MENDED[flag] for flag in each.flags if flag in _MENDED)
    if isinstance(each, AnswerPoint):
        x, y = each.x / 1000, each.y / 1000
        return Named(each.label, (x, y, x, y), False, True, str(each.attributes.get("role") or ""), findings=findings)
    return Named(each.label, each.box.to_relative().corners, findings=findings)
