"""A box and the frame that its numbers are in. It knows no picture, no label and no file format."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from vlyard.errors import InvalidInput


class Frame(StrEnum):
    """What a coordinate of 1 means."""

    RELATIVE = "relative"  # 0..1 of the picture's width or height, as YOLO writes
    THOUSAND = "thousand"  # 0..1000 of the picture's width or height, as Qwen3-VL speaks
    PIXELS = "pixels"  # a pixel of a picture of a stated size, as Qwen2.5-VL spoke


_INFINITE = math.inf
_UNIT = (1.0, 1.0)
_THOUSAND = (1000.0, 1000.0)


@dataclass(frozen=True)
class Box:
    """Left, top, right and bottom edge of an object in the displayed picture, in one stated frame.

    The origin is the top left corner. Edges may lie outside the picture, and may coincide. `size` is the
    picture's (width, height) where the frame is pixels. Raises `InvalidInput` where a coordinate is not a finite
    number, where left and right or top and bottom are swapped, or where `size` is missing, not positive, or given
    for a frame that has none.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    frame: Frame
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not (-_INFINITE < self.x1 < _INFINITE and -_INFINITE < self.x2 < _INFINITE) or not (
            -_INFINITE < self.y1 < _INFINITE and -_INFINITE < self.y2 < _INFINITE
        ):  # nothing that is not a number passes a comparison; a conversion makes millions of boxes
            raise InvalidInput(f"a box has a coordinate that is not a finite number: {self.corners}")
        if self.x1 > self.x2 or self.y1 > self.y2:
            raise InvalidInput(f"a box has swapped corners: {self.corners}")
        if (self.frame is Frame.PIXELS) != (self.size is not None):
            raise InvalidInput("a box carries the picture's size exactly where its frame is pixels")
        if self.size is not None and min(self.size) <= 0:
            raise InvalidInput(f"a box lies in a picture of impossible size {self.size}")

    @classmethod
    def relative(cls, corners: Sequence[float]) -> "Box":
        """From x1, y1, x2, y2 in 0..1."""
        x1, y1, x2, y2 = corners
        return cls(x1, y1, x2, y2, Frame.RELATIVE)

    @classmethod
    def judged(cls, x1: float, y1: float, x2: float, y2: float) -> "Box":
        """From corners in 0..1 known to be numbers, in order: in a third of the time, for boxes by the million."""
        box = object.__new__(cls)
        box.__dict__.update(x1=x1, y1=y1, x2=x2, y2=y2, frame=Frame.RELATIVE, size=None)
        return box

    @classmethod
    def from_thousand(cls, corners: Sequence[float]) -> "Box":
        """From x1, y1, x2, y2 in 0..1000, such as the model's `bbox_2d`."""
        x1, y1, x2, y2 = corners
        return cls(x1, y1, x2, y2, Frame.THOUSAND)

    @classmethod
    def from_pixels(cls, corners: Sequence[float], width: int, height: int) -> "Box":
        """From x1, y1, x2, y2 in pixels of a picture of that size."""
        x1, y1, x2, y2 = corners
        return cls(x1, y1, x2, y2, Frame.PIXELS, (width, height))

    @classmethod
    def from_centre(cls, x: float, y: float, width: float, height: float) -> "Box":
        """From the centre and the extent in 0..1: the order of a YOLO label line."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2, Frame.RELATIVE)

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in the box's own frame."""
        return self.x1, self.y1, self.x2, self.y2

    @property
    def area(self) -> float:
        """The part of the picture's area that the box covers: 1 is all of it."""
        left, top, right, bottom = self.to_relative().corners
        return (right - left) * (bottom - top)

    def to_relative(self) -> "Box":
        """The same box in 0..1."""
        if self.frame is Frame.RELATIVE:
            return self
        across, down = self.size or _THOUSAND
        return Box.relative((self.x1 / across, self.y1 / down, self.x2 / across, self.y2 / down))

    def clamped(self) -> "Box":
        """The part of the box that lies inside the picture, in the box's own frame."""
        across, down = self.size or (_THOUSAND if self.frame is Frame.THOUSAND else _UNIT)
        left, right = (min(max(v, 0.0), across) for v in (self.x1, self.x2))
        top, bottom = (min(max(v, 0.0), down) for v in (self.y1, self.y2))
        return Box(left, top, right, bottom, self.frame, self.size)

    def to_thousand(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 as Qwen3-VL writes them: clamped to the picture, then rounded half to even, in doubles."""
        # Doubles and this order, so that every trainer and every reader of the same line gets the same integers.
        if self.frame is Frame.RELATIVE and self.x1 >= 0 and self.y1 >= 0 and self.x2 <= 1 and self.y2 <= 1:
            return round(self.x1 * 1000), round(self.y1 * 1000), round(self.x2 * 1000), round(self.y2 * 1000)
        inside = self.clamped()
        if inside.frame is Frame.THOUSAND:
            return round(inside.x1), round(inside.y1), round(inside.x2), round(inside.y2)
        x1, y1, x2, y2 = inside.to_relative().corners
        return round(x1 * 1000), round(y1 * 1000), round(x2 * 1000), round(y2 * 1000)

    def pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels of the picture at that size, without rounding or clamping."""
        if self.size == (width, height):
            return self.corners
        if self.frame is Frame.THOUSAND:  # v / 1000 * size, in this order
            return (
                self.x1 / 1000 * width,
                self.y1 / 1000 * height,
                self.x2 / 1000 * width,
                self.y2 / 1000 * height,
            )
        x1, y1, x2, y2 = self.to_relative().corners
        return x1 * width, y1 * height, x2 * width, y2 * height

    def iou(self, other: "Box") -> float:
        """Intersection over union, 0..1; the frames may differ, the picture is the same. 0 where both are empty."""
        a, b = self.to_relative(), other.to_relative()
        across = min(a.x2, b.x2) - max(a.x1, b.x1)
        down = min(a.y2, b.y2) - max(a.y1, b.y1)
        shared = max(across, 0.0) * max(down, 0.0)
        union = a.area + b.area - shared
        return shared / union if union > 0 else 0.0
