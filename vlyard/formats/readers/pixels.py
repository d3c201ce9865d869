"""From pixels to the displayed picture: which size they are relative to, and whether EXIF still has to turn them.

Labels refer to the picture as displayed. Tools that ignore EXIF drew them on the picture as stored, and say so by the
size that they write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from vlyard.formats import faults
from vlyard.formats.faults import Finding
from vlyard.formats.readers.polygons import bounds
from vlyard.formats.reading import TOLERANCE, Refused
from vlyard.formats.record import Corner, Keypoint, Look

_SAME_SHAPE = 0.01  # how far two aspects may differ, relatively: a thumbnail's rounded sides
_ON_ITS_SIDE = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class Raster:
    """What pixels are relative to."""

    width: float
    height: float
    turn: int = 1  # the EXIF orientation that the labels still need: 1, or 5..8
    findings: tuple[Finding, ...] = ()  # about every annotation
    remark: Finding | None = None  # about the label as a whole; changes nothing

    def corner(self, x: float, y: float) -> Corner:
        """A point in pixels, relative to the displayed picture."""
        u, v = x / self.width, y / self.height
        match self.turn:  # EXIF 2.3, tag 0x0112
            case 5:
                return v, u
            case 6:
                return 1 - v, u
            case 7:
                return 1 - v, 1 - u
            case 8:
                return v, 1 - u
            case _:
                return u, v

    def box(self, corners: Sequence[float]) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels, relative to the displayed picture; swapped ones stay swapped."""
        x1, y1, x2, y2 = corners
        if self.turn == 1:
            return (*self.corner(x1, y1), *self.corner(x2, y2))
        left, top, right, bottom = bounds([self.corner(x1, y1), self.corner(x2, y2)])
        return (right, bottom, left, top) if x1 > x2 or y1 > y2 else (left, top, right, bottom)

    def outline(self, points: Sequence[Corner]) -> tuple[Corner, ...]:
        """Points in pixels, relative to the displayed picture, and moved to its edge where they lie outside."""
        width, height = self.width, self.height
        if self.turn == 1:
            return tuple((min(max(x / width, 0.0), 1.0), min(max(y / height, 0.0), 1.0)) for x, y in points)
        return tuple((_inside(x), _inside(y)) for x, y in (self.corner(*point) for point in points))

    def keypoint(self, x: float, y: float, name: str, visible: bool) -> Keypoint | None:
        """A keypoint in pixels, relative to the displayed picture; None where it lies outside."""
        across, down = self.corner(x, y)
        within = all(isfinite(v) and -TOLERANCE <= v <= 1 + TOLERANCE for v in (across, down))
        return Keypoint(_inside(across), _inside(down), name, visible) if within else None


def raster(declared: tuple[float, float] | None, look: Look) -> Raster:
    """What a label's pixels are relative to: the size that the label says, checked against the picture's.

    Raises `Refused` where nobody says the size, or where the two are of different shapes.
    """
    seen = (look.width, look.height)
    if min(seen) <= 0:
        if declared is None:
            raise Refused(faults.SIZE_UNKNOWN.found())
        return Raster(*declared)
    if declared is None or declared == seen:
        return Raster(*seen)
    on_its_side = look.orientation in _ON_ITS_SIDE
    if on_its_side and declared == look.stored:
        return _unturned(declared, look)
    words = f"{declared[0]:g} × {declared[1]:g}"
    remark = faults.SIZE_DIFFERS.found(declared=words, size=f"{seen[0]} × {seen[1]}")
    if _same_shape(declared, seen):
        return Raster(*declared, remark=remark)
    if on_its_side and _same_shape(declared, look.stored):
        turned = _unturned(declared, look)
        return Raster(*declared, turned.turn, turned.findings, remark)
    raise Refused(faults.SIZE_CONTRADICTS.found(declared=words, size=f"{seen[0]} × {seen[1]}"))


def _unturned(declared: tuple[float, float], look: Look) -> Raster:
    return Raster(*declared, look.orientation, (faults.LABELS_UNTURNED.found(orientation=look.orientation),))


def _same_shape(one: tuple[float, float], other: tuple[float, float]) -> bool:
    first, second = one[0] * other[1], one[1] * other[0]
    return abs(first - second) <= _SAME_SHAPE * max(first, second)


def _inside(value: float) -> float:
    return min(max(value, 0.0), 1.0)
