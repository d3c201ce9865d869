"""What travels from the readers of label formats to the writers: a picture and the objects in it. It knows no format.

All coordinates are relative: 0..1 of the picture as displayed, from its top left corner. What a conversion makes by the
million is a named tuple, which costs a third of a frozen dataclass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from vlyard.formats.box import Box

Value = str | int | float | bool | None  # what an attribute can be
Corner = tuple[float, float]  # x and y


@dataclass(frozen=True, slots=True)
class Keypoint:
    """A named point of an object."""

    x: float
    y: float
    name: str = ""
    visible: bool = True


class Target(NamedTuple):
    """An object as a reader understood it."""

    class_id: int  # of the source's own numbering, or the place of its class among the sorted names
    label: str
    box: Box  # relative, inside the picture; without area where the object is a point
    polygon: tuple[Corner, ...] = ()  # the outline, where the source has one; its box is `box`
    keypoints: tuple[Keypoint, ...] = ()
    attributes: Mapping[str, Value] = {}
    more_outlines: tuple[tuple[Corner, ...], ...] = ()  # of the parts of an object that falls apart

    @property
    def is_point(self) -> bool:
        """Whether the object is a place, and has no extent."""
        return self.box.x1 == self.box.x2 and self.box.y1 == self.box.y2


class Look(NamedTuple):
    """What a picture's file says of it. `width` and `height` are in pixels, as displayed; 0 where nobody looked."""

    width: int = 0
    height: int = 0
    orientation: int = 1  # EXIF's, 1..8
    rewrite: str = ""  # why trainers would see another picture than people: the code of a fault; empty where not
    remark: str = ""  # what is unusual and changes nothing: the code of a fault

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) as stored in the file, before EXIF turns it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


class Record(NamedTuple):
    """A picture with what is in it, chosen and checked: what a writer gets."""

    number: int  # its place in the set, from 0: the same in every run
    source: str  # the picture's file in the source, absolute
    picture: str  # the picture as the output names it: relative to the output's folder, or absolute
    split: str
    look: Look
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask about a record's picture, and the objects that answer it. Each becomes one sample."""

    prompt: str  # without a placeholder for the picture
    targets: tuple[Target, ...]
    answer: str = field(compare=False)  # what the objects are as text: made once, for samples and for statistics
