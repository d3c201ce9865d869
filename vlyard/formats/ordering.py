"""The order of a picture's objects, and every choice by seed. It knows no format and no prompt.

All orders are stable: objects that are equal in one keep the source's order.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

from vlyard.formats.record import Target

_T = TypeVar("_T")


def chance(seed: int, *key: object) -> int:
    """A number of 64 bits that nothing but its arguments decides: the same in every process and Python version."""
    text = "\0".join(map(str, (seed, *key)))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def shuffled(items: Sequence[_T], seed: int, *key: object) -> list[_T]:
    """The items in an order that the seed and the key decide."""
    places = sorted(range(len(items)), key=lambda place: chance(seed, *key, place))
    return [items[place] for place in places]


def by_position(targets: Sequence[Target]) -> list[Target]:
    """From top to bottom in rows, and from left to right in each.

    A row begins with the highest object that is left, by its centre. An object belongs to it where the two centres
    differ by no more than half the lower height of both: what people see side by side, whatever the sizes.
    """
    rows: list[list[Target]] = []
    for target in sorted(targets, key=_middle):
        if rows and _side_by_side(rows[-1][0], target):
            rows[-1].append(target)
        else:
            rows.append([target])
    return [target for row in rows for target in sorted(row, key=lambda each: each.box.x1)]


def by_size(targets: Sequence[Target]) -> list[Target]:
    """From the largest area to the smallest."""
    return sorted(targets, key=lambda each: -each.box.area)


def by_class(targets: Sequence[Target], ranks: Mapping[str, int]) -> list[Target]:
    """By the ranks of their labels; labels without a rank come last, by name."""
    return sorted(targets, key=lambda each: (ranks.get(each.label, len(ranks)), each.label))


def _middle(target: Target) -> float:
    return target.box.y1 + target.box.y2


def _side_by_side(first: Target, other: Target) -> bool:
    lower = min(first.box.y2 - first.box.y1, other.box.y2 - other.box.y1)
    return abs(_middle(other) - _middle(first)) <= lower
