"""Confidence intervals by resampling pictures. It knows counts of pictures and no boxes.

Pictures are drawn with replacement, as many as there are, again and again; the interval of a figure holds 95 % of its
values, from the 2.5th to the 97.5th percentile. Pictures are drawn, not objects: objects of one picture are found or
missed together. Pictures with equal counts are drawn as one kind, with a multinomial distribution, which is the same
and much faster; and so no order of the pictures decides anything.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

_LOW, _HIGH = 2.5, 97.5  # percentiles
_CELLS = 2**22  # numbers of one round of drawing, at most: 32 MiB

Totals: TypeAlias = NDArray[numpy.float64]  # (resamplings, columns)


def intervals(
    counts: Sequence[Sequence[float]],
    figures: Mapping[str, Callable[[Totals], NDArray[numpy.float64]]],
    resamplings: int,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The interval of each figure; none where there is nothing to draw from, or nothing is drawn.

    `counts` has a row for each picture, and a figure is a function of the rows' sums. The same seed and the same
    rows, in whatever order, give the same intervals.
    """
    if not counts or not resamplings:
        return {}
    totals = _drawn(numpy.array(counts, dtype=float), resamplings, seed)
    return {name: _middle(figure(totals)) for name, figure in figures.items()}


def ratios(part: NDArray[numpy.float64], whole: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Part over whole, each; 0 of nothing."""
    found: NDArray[numpy.float64] = numpy.divide(part, whole, out=numpy.zeros_like(part), where=whole > 0)
    return found


def _drawn(counts: Totals, resamplings: int, seed: int) -> Totals:
    kinds, often = numpy.unique(counts, axis=0, return_counts=True)
    rng, pictures = numpy.random.default_rng(seed), len(counts)
    step = max(1, _CELLS // len(kinds))
    rounds = [min(step, resamplings - begun) for begun in range(0, resamplings, step)]
    return numpy.concatenate([rng.multinomial(pictures, often / pictures, size=size) @ kinds for size in rounds])


def _middle(values: NDArray[numpy.float64]) -> tuple[float, float]:
    low, high = numpy.percentile(values, [_LOW, _HIGH])
    return float(low), float(high)
