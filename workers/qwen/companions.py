"""Which waiting questions go on together. It knows sizes only, and decides nothing by chance."""

from collections.abc import Sequence
from typing import NamedTuple


class Size(NamedTuple):
    """What a question takes, in tokens."""

    reads: int  # that are there
    speaks: int  # that are expected to come


class Room(NamedTuple):
    """What a batch may take: its rows × (the longest that is read + the longest that is to come) are its tokens."""

    tokens: int
    rows: int


def choose(waiting: Sequence[Size], running: Sequence[Size], room: Room) -> list[int]:
    """Those of `waiting`, the oldest first, that join the running ones, by their places.

    The oldest comes first: where there is no room for it nobody joins, so that it is alone in the end and then always
    has room. Its companions are those whose padding costs least, the older first.
    """
    if not waiting:
        return []
    oldest = waiting[0]
    order = sorted(range(1, len(waiting)), key=lambda at: (_padding(waiting[at], oldest), at))
    chosen: list[int] = []
    rows, reads, speaks = len(running), *_longest(running)
    for at in (0, *order):
        if rows >= room.rows:
            break
        wider = max(reads, waiting[at].reads), max(speaks, waiting[at].speaks)
        if (rows + 1) * sum(wider) <= room.tokens or not rows:
            chosen.append(at)
            rows, (reads, speaks) = rows + 1, wider
        elif not chosen:
            break
    return sorted(chosen)


def _longest(sizes: Sequence[Size]) -> tuple[int, int]:
    return max((size.reads for size in sizes), default=0), max((size.speaks for size in sizes), default=0)


def _padding(size: Size, other: Size) -> int:
    return abs(size.reads - other.reads) + abs(size.speaks - other.speaks)
