"""Which box of an answer is which object of the truth, one to one. It knows no label's meaning and no metric.

Two matchings are made, each by a solver of the assignment problem, scipy's `linear_sum_assignment`:
- at a threshold: of all ways to pair boxes that have the same label and an IoU of at least the threshold, those with
  the most pairs, and of these one with the largest sum of IoU;
- by overlap: one with the largest sum of IoU, whatever each pair's is.
No order of the boxes decides anything: the number of pairs and the sum are the same in all solutions, and among
solutions that are equally good the boxes themselves decide.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from workers.qwen.grounding.objects import Corners, Thing


class Pair(NamedTuple):
    """An object of the truth and a box of the answer, by their places."""

    truth: int
    found: int
    iou: float


def match(
    truth: Sequence[Thing], found: Sequence[Thing], threshold: float, *, ignore_labels: bool = False
) -> list[Pair]:
    """The matching at a threshold, in the truth's order."""
    return _solved(truth, found, threshold, ignore_labels=ignore_labels, count=True)


def match_by_overlap(truth: Sequence[Thing], found: Sequence[Thing], *, ignore_labels: bool = False) -> list[Pair]:
    """The matching by overlap, in the truth's order; no pair in it is without overlap."""
    return _solved(truth, found, 0.0, ignore_labels=ignore_labels, count=False)


def _solved(
    truth: Sequence[Thing], found: Sequence[Thing], threshold: float, *, ignore_labels: bool, count: bool
) -> list[Pair]:
    if not truth or not found:
        return []
    rows = sorted(range(len(truth)), key=lambda at: truth[at].rank)
    columns = sorted(range(len(found)), key=lambda at: found[at].rank)
    overlap = ious([truth[at].corners for at in rows], [found[at].corners for at in columns])
    possible = (overlap > 0) & (overlap >= threshold)
    if not ignore_labels:
        possible &= numpy.array([[truth[row].label == found[column].label for column in columns] for row in rows])
    # A pair is worth more than all IoUs together, so that none is given up for a better one elsewhere.
    worth = overlap + (min(overlap.shape) + 1 if count else 0)
    chosen = linear_sum_assignment(numpy.where(possible, worth, 0.0), maximize=True)
    pairs = [
        Pair(rows[row], columns[column], float(overlap[row, column]))
        for row, column in zip(*chosen, strict=True)
        if possible[row, column]
    ]
    return sorted(pairs)


def ious(truth: Sequence[Corners], found: Sequence[Corners]) -> NDArray[numpy.float64]:
    """Intersection over union of each with each, (truth, found); 0 where both are empty."""
    a, b = numpy.array(truth, dtype=float)[:, None], numpy.array(found, dtype=float)[None]
    extent = numpy.minimum(a[..., 2:], b[..., 2:]) - numpy.maximum(a[..., :2], b[..., :2])
    shared = numpy.clip(extent, 0, None).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    overlap: NDArray[numpy.float64] = numpy.divide(shared, union, out=numpy.zeros_like(shared), where=union > 0)
    return overlap
