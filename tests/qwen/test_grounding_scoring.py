"""Precision, recall, F1 and mean IoU, counted by hand."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.qwen.grounding.objects import Thing
from workers.qwen.grounding.scoring import Judged, score, total

CAT, DOG = (0, 0, 100, 100), (500, 500, 600, 700)


def written(*objects: tuple[str, tuple[float, ...]]) -> str:
    return json.dumps([{"bbox_2d": box, "label": label} for label, box in objects])


@pytest.mark.parametrize(
    ("answers", "truths", "expected"),
    [
        # precision, recall, F1, mean IoU, parse failures
        ([written(("cat", CAT))], [written(("cat", CAT))], (1, 1, 1, 1, 0)),
        ([written(("dog", CAT))], [written(("cat", CAT))], (0, 0, 0, 0, 0)),
        (["[]"], ["[]"], (0, 0, 0, 0, 0)),
        (["I see nothing."], [written(("cat", CAT))], (0, 0, 0, 0, 1)),
        # two true objects, one of them found exactly; 3 boxes: 1 right of 3, 1 of 2, 2/5
        (
            [written(("cat", CAT), ("cat", DOG), ("cow", DOG))],
            [written(("cat", CAT), ("dog", DOG))],
            (1 / 3, 1 / 2, 2 / 5, 1 / 2, 0),
        ),
        # micro-averaged: 1 of 1 and 0 of 3 objects are 1 of 4; an IoU of 0.4 is no match, and counts for the mean
        (
            [written(("cat", CAT)), written(("cat", (0, 0, 100, 40)))],
            [written(("cat", CAT)), written(("cat", CAT), ("dog", CAT), ("dog", DOG))],
            (1 / 2, 1 / 4, 1 / 3, 1.4 / 4, 0),
        ),
        # a false alarm where there is nothing
        ([written(("cat", CAT)), written(("cat", CAT))], [written(("cat", CAT)), "[]"], (1 / 2, 1, 2 / 3, 1, 0)),
    ],
)
def test_the_figures_are_those_counted_by_hand(
    answers: list[str], truths: list[str], expected: tuple[float, ...]
) -> None:
    found = score(answers, truths)

    figures = (found.precision, found.recall, found.f1, found.mean_iou, found.parse_failures)
    assert figures == pytest.approx(expected)
    assert found.samples == len(answers)


def test_answers_and_truths_of_different_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        score(["[]"], [])


CORNERS = st.tuples(*[st.floats(0, 500, width=32)] * 2, *[st.floats(500, 1000, width=32)] * 2)
THINGS = st.lists(st.builds(Thing, st.sampled_from("ab"), CORNERS), max_size=4)


@settings(max_examples=50)
@given(pictures=st.lists(st.tuples(THINGS, THINGS), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_no_order_of_pictures_or_boxes_changes_any_figure(
    pictures: list[tuple[list[Thing], list[Thing]]], seed: int
) -> None:
    rng = Random(seed)
    shuffled = [
        Judged(tuple(rng.sample(truth, len(truth))), tuple(rng.sample(found, len(found)))) for truth, found in pictures
    ]
    rng.shuffle(shuffled)
    straight = [Judged(tuple(truth), tuple(found)) for truth, found in pictures]

    for iou in (0.5, 0.75):
        assert total(each.tally(iou) for each in straight) == total(each.tally(iou) for each in shuffled)
