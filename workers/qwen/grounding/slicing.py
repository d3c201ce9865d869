"""Where a model does well and where not: figures of classes, sizes, shapes of pictures and numbers of objects.

At an IoU of 0.5. An object of the truth, and a box that is matched with it, belong to the slice of that object; a box
that is matched with none belongs to its own. A ratio of nothing is 0, and the counts beside it tell.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt

from workers.qwen.grounding.objects import Thing
from workers.qwen.grounding.scoring import THRESHOLDS, Judged, Tally

Size = tuple[int, int]  # width and height of a picture as displayed, in pixels

# Exclusive upper limits and names. COCO's areas: small is under 32 × 32 pixels, medium under 96 × 96.
_AREAS = ((32.0**2, "small"), (96.0**2, "medium"), (float("inf"), "large"))
_SIDES = ((50.0, "under 5 %"), (100.0, "5 to 10 %"), (200.0, "10 to 20 %"), (400.0, "20 to 40 %"), (1e9, "over 40 %"))
_ASPECTS = (
    (0.5, "taller than 1:2"),
    (0.8, "upright"),
    (1.25, "square"),
    (2.0, "wide"),
    (float("inf"), "2:1 and wider"),
)
_COUNTS = ((1.0, "none"), (2.0, "1"), (6.0, "2 to 5"), (21.0, "6 to 20"), (float("inf"), "more than 20"))
_UNKNOWN = "unknown"  # the picture could not be read


@dataclass(frozen=True)
class Case:
    """A question that was judged, and the size of its picture."""

    judged: Judged
    size: Size | None


@dataclass(frozen=True)
class _Event:
    """An object of the truth, or a box that is none."""

    case: Case
    thing: Thing
    true: bool  # it is of the truth
    right: bool = False  # it was found
    overlap: float = 0.0


def slices(cases: Iterable[Case]) -> dict[str, dict[str, Tally]]:
    """By the name of a way to slice, and the slice's, in the order of the slices; a slice with nothing in it is out."""
    events = [event for case in cases for event in _events(case)]
    return {
        name: _tallies(events, of, [name for _, name in limits] + [_UNKNOWN]) for name, (of, limits) in _SLICED.items()
    }


def classes(cases: Iterable[Case]) -> dict[str, Tally]:
    """By label, also those that only answers have."""
    events = [event for case in cases for event in _events(case)]
    return _tallies(events, lambda event: event.thing.label, sorted({event.thing.label for event in events}))


def _events(case: Case) -> Iterator[_Event]:
    judged = case.judged
    pairs, overlaps = judged.pairs[THRESHOLDS[0]], {pair.truth: pair.iou for pair in judged.overlaps}
    hit, used = {pair.truth for pair in pairs}, {pair.found for pair in pairs}
    for at, thing in enumerate(judged.truth):
        yield _Event(case, thing, true=True, right=at in hit, overlap=overlaps.get(at, 0.0))
    for at, thing in enumerate(judged.found):
        if at not in used:
            yield _Event(case, thing, true=False)


def _tallies(events: Iterable[_Event], of: Callable[[_Event], str], order: Sequence[str]) -> dict[str, Tally]:
    sorted_out: dict[str, list[_Event]] = {name: [] for name in order}
    for event in events:
        sorted_out[of(event)].append(event)
    return {name: _tally(those) for name, those in sorted_out.items() if those}


def _tally(events: Sequence[_Event]) -> Tally:
    truth, right = sum(event.true for event in events), sum(event.right for event in events)
    return Tally(truth, right + len(events) - truth, right, fsum(event.overlap for event in events))


# --- which slice ----------------------------------------------------------------------------------------------


def _area(event: _Event) -> str:
    if event.case.size is None:
        return _UNKNOWN
    width, height = event.case.size
    return _named(_extent(event.thing) ** 2 * width * height / 1e6, _AREAS)


def _side(event: _Event) -> str:
    return _named(_extent(event.thing), _SIDES)


def _aspect(event: _Event) -> str:
    size = event.case.size
    return _UNKNOWN if size is None else _named(size[0] / size[1], _ASPECTS)


def _count(event: _Event) -> str:
    return _named(len(event.case.judged.truth), _COUNTS)


def _extent(thing: Thing) -> float:
    """The square root of the area, in thousandths of the picture's sides."""
    x1, y1, x2, y2 = thing.corners
    return sqrt((x2 - x1) * (y2 - y1))


def _named(value: float, limits: Sequence[tuple[float, str]]) -> str:
    return next(name for limit, name in limits if value < limit)


_SLICED: Mapping[str, tuple[Callable[[_Event], str], Sequence[tuple[float, str]]]] = {
    "area_pixels": (_area, _AREAS),
    "side_of_picture": (_side, _SIDES),
    "picture_aspect": (_aspect, _ASPECTS),
    "objects_in_picture": (_count, _COUNTS),
}
