"""Intervals by resampling pictures."""

from random import Random

import numpy
import pytest

from workers.qwen.grounding.bootstrap import Totals, intervals, ratios


def recall(totals: Totals) -> Totals:
    return ratios(totals[:, 1], totals[:, 0])


FIGURES = {"recall": recall}


def test_pictures_that_are_all_alike_leave_no_doubt() -> None:
    assert intervals([(4, 1)] * 10, FIGURES, 200) == {"recall": (0.25, 0.25)}


def test_the_interval_is_that_of_drawing_pictures_one_by_one() -> None:
    # given 100 pictures with one object each, of which 70 were found
    counts = [(1, int(at < 70)) for at in range(100)]

    low, high = intervals(counts, FIGURES, 4_000)["recall"]

    # then it is the binomial's: 0.7 ± 1.96 × sqrt(0.7 × 0.3 / 100)
    assert (low, high) == pytest.approx((0.61, 0.79), abs=0.011)


def test_it_is_pictures_that_are_drawn_and_not_objects() -> None:
    # given the same objects in ten pictures, of which each is found whole or not at all
    counts = [(10, 10 * (at < 7)) for at in range(10)]

    low, high = intervals(counts, FIGURES, 4_000)["recall"]

    assert (low, high) == pytest.approx((0.4, 1.0), abs=0.001)


def test_no_order_of_the_pictures_changes_it() -> None:
    counts = [(at % 5, at % 5 * 0.3 + at % 3) for at in range(60)]
    shuffled = Random(3).sample(counts, len(counts))

    assert intervals(counts, FIGURES, 500) == intervals(shuffled, FIGURES, 500)


def test_many_kinds_of_pictures_are_drawn_in_rounds_and_come_out_the_same() -> None:
    counts = [(1.0, at / 1000) for at in range(1000)]
    whole = intervals(counts, FIGURES, 9_000)["recall"]  # nine million numbers: three rounds

    rng = numpy.random.default_rng(0)
    drawn = rng.multinomial(1000, [1 / 1000] * 1000, size=9_000) @ numpy.array(counts)

    assert whole == pytest.approx(tuple(numpy.percentile(drawn[:, 1] / drawn[:, 0], [2.5, 97.5])))


@pytest.mark.parametrize(("counts", "resamplings"), [([], 100), ([(1, 1)], 0)])
def test_there_is_none_of_nothing_and_none_where_nothing_is_drawn(
    counts: list[tuple[int, int]], resamplings: int
) -> None:
    assert intervals(counts, FIGURES, resamplings) == {}


def test_a_ratio_of_nothing_is_0() -> None:
    assert intervals([(0, 0)], FIGURES, 10) == {"recall": (0.0, 0.0)}
