"""Outlines: their bounds, their area, and the corners of a turned box. It knows no frame and no format."""

from collections.abc import Sequence
from math import cos, sin

from vlyard.formats.record import Corner


def bounds(points: Sequence[Corner]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of the smallest upright box around at least one point."""
    across, down = [x for x, _ in points], [y for _, y in points]
    return min(across), min(down), max(across), max(down)


def area(ring: Sequence[Corner]) -> float:
    """The area inside a ring, whichever way round it goes."""
    following = [*ring[1:], *ring[:1]]
    return abs(sum(x * b - a * y for (x, y), (a, b) in zip(ring, following, strict=True))) / 2


def pairs(numbers: Sequence[float]) -> tuple[Corner, ...]:
    """The points of x, y, x, y and so on. Raises `ValueError` where the last one has no y."""
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def turned_box(x: float, y: float, width: float, height: float, angle: float) -> tuple[Corner, ...]:
    """The four corners of a box around its centre, turned clockwise by `angle` radians, as the y axis goes down."""
    across, down = (width / 2 * cos(angle), width / 2 * sin(angle)), (-height / 2 * sin(angle), height / 2 * cos(angle))
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return tuple((x + a * across[0] + b * down[0], y + a * across[1] + b * down[1]) for a, b in signs)
