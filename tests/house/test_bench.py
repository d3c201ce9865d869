"""What is measured: each figure beside a baseline that it names, and judged by its bar."""

from importlib import import_module

import pytest

from bench.__main__ import FIGURES
from bench.features import QWEN3_VL_2B, SHAPE, Proportions
from bench.figure import Figure, number
from workers.qwen.demo.architecture import build


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_what_its_baseline_is(name: str) -> None:
    figure = import_module(f"bench.{name}")

    assert "The baseline" in (figure.__doc__ or "")
    assert callable(figure.measure)


@pytest.mark.parametrize(
    ("better", "ours", "bar", "met"),
    [("more", 50, 0.5, True), ("more", 49, 0.5, False), ("less", 200, 2, True), ("less", 201, 2, False)],
)
def test_a_bar_is_met_from_the_side_that_is_better(better: str, ours: float, bar: float, met: bool) -> None:
    assert Figure("name", "unit", better, ours, "baseline", 100, bar).met is met
    assert Figure("name", "unit", better, ours, "baseline", 100).met is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.6796, "0.680"),
        (0.155, "0.155"),
        (0.00421, "0.00421"),
        (5.234, "5.23"),
        (52.34, "52.3"),
        (1234.5, "1,234"),
        (0, "0"),
    ],
)
def test_a_number_is_told_with_three_digits_however_small_it_is(value: float, said: str) -> None:
    assert number(value) == said


def test_the_model_that_looks_once_has_the_proportions_of_the_real_one() -> None:
    model, _ = build(seed=1, shape=SHAPE)

    assert Proportions.of(model).ratio() == pytest.approx(QWEN3_VL_2B.ratio(), rel=0.2)
