"""Numbers in the fewest digits that lose nothing. It knows no format but by two functions."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from vlyard.formats.box import Box

Corners = tuple[float, ...]  # x1, y1, x2, y2 in 0..1
_Spelled = TypeVar("_Spelled")
_CLOSE = 1e-9  # of the picture's side: a hundred-thousandth of a pixel where it has ten thousand


def shortest(
    box: Box, spell: Callable[[Corners, int], _Spelled], read: Callable[[_Spelled], Corners], digits: Sequence[int]
) -> _Spelled:
    """The relative box with as many decimals as it takes to read it back: as close as matters, the same thousandths.

    Where the thousandths hang on less than a double carries through the format's arithmetic, the box that they name
    is spelled instead.
    """
    corners, wanted = box.corners, box.to_thousand()
    for count in digits:
        spelled = spell(corners, count)
        if _same(read(spelled), corners, wanted):
            return spelled
    x1, y1, x2, y2 = wanted
    if x1 == x2 or y1 == y2:  # it has no area there, and here it has
        return spelled
    return spell((x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000), digits[-1])


def _same(found: Corners, corners: Corners, wanted: Sequence[int]) -> bool:
    return all(
        abs(value - exact) <= _CLOSE and round(value * 1000) == thousandth
        for value, exact, thousandth in zip(found, corners, wanted, strict=True)
    )
