"""One row of a dataset as turns of words and pictures. It knows no file, no model and no tokens.

The shapes are those of LLaMA-Factory (data/README.md), of Qwen's finetuning code (qwen-vl-finetune/README.md), of
TRL ("dataset formats") and of ms-swift (Custom-dataset.md): turns of role and content, or of from and value; words
with `<image>` where a picture stands, or parts; pictures in a list beside the turns, or in the parts.

A line break behind `<image>` belongs to the placeholder and not to the words: whoever asks the tuned model gives a
picture and words, and nobody a line break between.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Literal, TypeAlias

from vlyard.formats.readers.values import shown

Role: TypeAlias = Literal["system", "user", "assistant"]
_PLACEHOLDER = re.compile("<image>\n?")
_UNSEEN = re.compile("<video>|<audio>")
_ROLES: Mapping[str, Role] = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant",
}  # fmt: skip


class Unlearnable(Exception):
    """A sample cannot be learned: a word for programs, and a sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said: words, and None where the next picture stands."""

    role: Role
    parts: tuple[str | None, ...]

    @property
    def words(self) -> str:
        return "".join(part for part in self.parts if part is not None)


@dataclass(frozen=True)
class Columns:
    """Where a row keeps what; as nearly everybody writes it unless a description says otherwise."""

    turns: tuple[str, ...] = ("messages", "conversations")
    images: tuple[str, ...] = ("images", "image")
    system: str = "system"
    role: tuple[str, ...] = ("role", "from")
    content: tuple[str, ...] = ("content", "value")
    roles: Mapping[str, Role] = field(default_factory=lambda: _ROLES)


USUAL = Columns()


@dataclass(frozen=True, slots=True)
class Slots:
    """ms-swift's `objects`: what stands for `<ref-object>` and `<bbox>`, in the order of the turns."""

    refs: tuple[str, ...]
    boxes: tuple[tuple[float, ...], ...]  # of four numbers, or of two for a point
    in_pixels: bool
    pictures: tuple[int, ...]  # which one each box is in


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row that can be understood. There are as many pictures as places for them."""

    turns: tuple[Turn, ...]  # perhaps one of the system, then user and assistant, the assistant last
    pictures: tuple[str, ...]  # paths as they are written
    slots: Slots | None = None

    @property
    def question(self) -> str:
        """The first words of the user."""
        return next(turn.words for turn in self.turns if turn.role == "user").strip()


def read_conversation(said: object, columns: Columns, system: str | None) -> Conversation:
    """The row's turns, after `system` where it has no such message itself. Raises `Unlearnable`."""
    if isinstance(said, ValueError):
        raise Unlearnable("wrong_form", f"this is not JSON: {said}")
    if not isinstance(said, dict):
        raise Unlearnable("wrong_form", f"it is {shown(said)}, and must be a table with turns")
    listed = [(role, list(_parts(content))) for role, content in _listed(said, columns)]
    own = said.get(columns.system)
    first = own if isinstance(own, str) and own else system
    if first and not (listed and listed[0][0] == "system"):
        listed.insert(0, ("system", [first]))
    _expect_turns([role for role, _ in listed])
    beside = [path for key in columns.images for path in _paths(said.get(key))]
    turns, pictures = _with_pictures(listed, beside)
    if any(said.get(key) for key in ("videos", "video", "audios", "audio")):
        raise Unlearnable("wrong_form", "it has videos or sounds, and only pictures are learned")
    return Conversation(turns, pictures, _slots(said.get("objects"), len(pictures)))


# --- turns ----------------------------------------------------------------------------------------------------

_Part: TypeAlias = str | tuple[str] | None  # words, a place for a picture, or the picture itself


def _listed(said: Mapping[str, Any], columns: Columns) -> Iterator[tuple[Role, object]]:
    key = next((key for key in columns.turns if key in said), None)
    turns = said[key] if key else _prompted(said)
    if not isinstance(turns, list):
        due = " or ".join(columns.turns)
        raise Unlearnable("wrong_form", f"it has no list of turns: {due} is missing or no list")
    for turn in turns:
        if not isinstance(turn, dict):
            raise Unlearnable("wrong_form", f"one of its turns is {shown(turn)}, and must be a table")
        spoken = next((turn[name] for name in columns.role if name in turn), None)
        role = columns.roles.get(spoken) if isinstance(spoken, str) else None
        if role is None:
            known = ", ".join(columns.roles)
            raise Unlearnable("wrong_form", f"one of its turns is of the role {shown(spoken)}; known are {known}")
        yield role, next((turn[name] for name in columns.content if name in turn), None)


def _prompted(said: Mapping[str, Any]) -> object:
    """TRL's prompt and completion, each a list of turns."""
    prompt, completion = said.get("prompt"), said.get("completion")
    return [*prompt, *completion] if isinstance(prompt, list) and isinstance(completion, list) else None


def _parts(content: object) -> Iterator[_Part]:
    if isinstance(content, str):
        yield from _split(content)
        return
    if not isinstance(content, list):
        raise Unlearnable("wrong_form", f"what one of its turns says is {shown(content)}, and must be words or parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield part["text"]
        elif kind in ("image", "image_url"):
            own = next((path for key in ("image", "path", "url", "image_url") for path in _paths(part.get(key))), None)
            yield None if own is None else (own,)
        else:
            raise Unlearnable("wrong_form", f"a part of one of its turns is {shown(part)}; known are image and text")


def _split(text: str) -> Iterator[_Part]:
    if found := _UNSEEN.search(text):
        raise Unlearnable("wrong_form", f"its words have {found[0]}, and only pictures are learned")
    before, *pieces = _PLACEHOLDER.split(text)
    if before or not pieces:
        yield before
    for piece in pieces:
        yield None
        if piece:
            yield piece


def _expect_turns(roles: Sequence[str]) -> None:
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    due = [role for role, _ in zip(cycle(("user", "assistant")), spoken, strict=False)]
    if not spoken or list(spoken) != due or len(spoken) % 2:
        said = ", ".join(roles[:8]) or "none"
        what = "user and assistant take turns, the assistant has the last word, and only the first turn is the system's"
        raise Unlearnable("wrong_form", f"its turns are {said}; {what}")


# --- pictures -------------------------------------------------------------------------------------------------


def _paths(said: object) -> Iterator[str]:
    for each in said if isinstance(said, list) else [said]:
        path = (each.get("path") or each.get("url")) if isinstance(each, dict) else each
        if isinstance(path, str) and path:
            yield path


def _with_pictures(
    listed: Sequence[tuple[Role, list[_Part]]], beside: Sequence[str]
) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """The turns, and every picture in the order of its place in them."""
    places = [part for _, parts in listed for part in parts if not isinstance(part, str)]
    if not places and beside:  # TRL and ms-swift put them before the first question
        first = next(parts for role, parts in listed if role == "user")
        first[:0] = places = [None] * len(beside)
    if places.count(None) != len(beside):
        what = f"its turns have places for {places.count(None)} pictures, and it names {len(beside)}"
        raise Unlearnable("pictures_and_placeholders_differ", what)
    left = iter(beside)
    pictures = tuple(next(left) if place is None else place[0] for place in places)
    turns = tuple(
        Turn(role, tuple(part if isinstance(part, str) else None for part in parts)) for role, parts in listed
    )
    for turn in turns:
        if turn.role != "user" and None in turn.parts:
            raise Unlearnable("wrong_form", f"a picture stands in a turn of the {turn.role}, and only users show some")
        if turn.role == "assistant" and not turn.words:
            raise Unlearnable("wrong_form", "one of its answers is empty")
    return turns, pictures


# --- ms-swift's slots -----------------------------------------------------------------------------------------

_SLOT = re.compile("<ref-object>|<bbox>")
_FAR = 1e9  # no picture has so many pixels


def _slots(said: object, pictures: int) -> Slots | None:
    if not isinstance(said, dict) or not said:
        return None
    refs, boxes, kind = said.get("ref") or [], said.get("bbox") or [], said.get("bbox_type") or "real"
    sound = isinstance(refs, list) and isinstance(boxes, list) and kind in ("real", "norm1")
    shows = said.get("image_id") or ([0] * len(boxes) if sound else [])
    sound = sound and isinstance(shows, list) and len(shows) == len(boxes)
    if not sound or not all(map(_is_place, boxes)):
        what = "ref, bbox of two or four numbers each, bbox_type real or norm1, and image_id for each"
        raise Unlearnable("wrong_form", f"its `objects` are not in ms-swift's form: {what}")
    if not all(isinstance(each, int) and 0 <= each < pictures for each in shows):
        raise Unlearnable("wrong_form", f"its `objects` are of a picture that it does not have; it has {pictures}")
    return Slots(tuple(map(str, refs)), tuple(map(tuple, boxes)), kind == "real", tuple(shows))


def _is_place(box: object) -> bool:
    numbers = box if isinstance(box, list) else []
    return len(numbers) in {2, 4} and all(type(value) in {int, float} and abs(value) < _FAR for value in numbers)


def filled(conversation: Conversation, sizes: Sequence[tuple[int, int]]) -> Conversation:
    """The same with its slots filled; `sizes` are (width, height) of its pictures as displayed.

    A box becomes `[x1, y1, x2, y2]` in thousandths and a name stays as it is: ms-swift with QWENVL_BBOX_FORMAT=new.
    Raises `Unlearnable` where slots and objects do not match.
    """
    slots = conversation.slots
    if slots is None:
        return conversation
    refs, boxes = iter(slots.refs), iter([_thousandths(slots, at, sizes) for at in range(len(slots.boxes))])

    def fill(found: re.Match[str]) -> str:
        value = next(boxes if found[0] == "<bbox>" else refs, None)
        if value is None:
            raise Unlearnable("wrong_form", f"its turns have more {found[0]} than its objects fill")
        return value

    turns = tuple(
        Turn(turn.role, tuple(None if part is None else _SLOT.sub(fill, part) for part in turn.parts))
        for turn in conversation.turns
    )
    if next(refs, None) is not None or next(boxes, None) is not None:
        raise Unlearnable("wrong_form", "its objects fill more than the <ref-object> and <bbox> of its turns")
    return Conversation(turns, conversation.pictures)


def _thousandths(slots: Slots, at: int, sizes: Sequence[tuple[int, int]]) -> str:
    sides = cycle(sizes[slots.pictures[at]] if slots.in_pixels else (1, 1))
    parts = [min(max(value / side, 0.0), 1.0) for value, side in zip(slots.boxes[at], sides, strict=False)]
    return str([round(part * 1000) for part in parts])
