"""COCO's mAP, beside numbers made by hand and a small computation of our own."""

from collections.abc import Sequence
from random import Random

import numpy
import pytest

from workers.qwen.grounding.average_precision import average_precision
from workers.qwen.grounding.matching import ious
from workers.qwen.grounding.objects import Thing
from workers.qwen.grounding.scoring import Judged

BOX, ELSEWHERE = (0.0, 0.0, 100.0, 100.0), (500.0, 500.0, 600.0, 600.0)


def right(confidence: float = 1.0, label: str = "a") -> Judged:
    return Judged((Thing(label, BOX),), (Thing(label, BOX, confidence),))


def wrong(confidence: float, label: str = "a") -> Judged:
    """A box where nothing is."""
    return Judged((), (Thing(label, ELSEWHERE, confidence),))


def missed(label: str = "a") -> Judged:
    return Judged((Thing(label, BOX),), ())


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        ([right()], 1.0),
        ([missed()], 0.0),
        # half of the objects are found and all found are right: precision is 1 at recalls 0 to 0.5, 51 of 101
        ([right(0.9), missed()], 51 / 101),
        # the surest box is wrong: precision is 1/2 at every recall
        ([wrong(0.9), right(0.5)], 1 / 2),
        ([wrong(0.5), right(0.9)], 1.0),
        # the mean over classes, of which the truth has two; a label that it does not have is none
        ([right(), missed("b"), wrong(1.0, "c")], 1 / 2),
    ],
)
def test_it_is_what_is_counted_by_hand(judged: list[Judged], expected: float) -> None:
    assert average_precision(judged).at_50 == pytest.approx(expected)


def test_an_iou_of_060_is_right_at_three_of_cocos_ten_thresholds() -> None:
    near = Judged((Thing("a", BOX),), (Thing("a", (0, 0, 100, 60)),))

    found = average_precision([near])

    assert found.at_50 == 1.0
    assert found.at_50_95 == pytest.approx(3 / 10)
    assert found.classes["a"] == pytest.approx((1, 3 / 10))


def test_where_labels_are_ignored_all_are_one_class() -> None:
    mislabelled = [Judged((Thing("a", BOX),), (Thing("b", BOX),), ignore_labels=True)]

    found = average_precision(mislabelled, ignore_labels=True)

    assert found.at_50 == pytest.approx(1)
    assert found.classes == {}


def test_a_truth_without_any_object_has_no_figure() -> None:
    assert average_precision([wrong(0.9)]).at_50 is None


def test_of_a_picture_the_hundred_surest_boxes_of_a_class_count() -> None:
    noise = tuple(Thing("a", ELSEWHERE, 0.9) for _ in range(100))
    crowded = Judged((Thing("a", BOX),), (*noise, Thing("a", BOX, 0.1)))

    assert average_precision([crowded]).at_50 == 0.0


def drawn(seed: int, *, sure: bool = False) -> list[Judged]:
    rng = Random(seed)

    def box() -> tuple[float, ...]:
        x, y = rng.randrange(700), rng.randrange(700)
        return x, y, x + rng.randrange(50, 300), y + rng.randrange(50, 300)

    judged = []
    for _ in range(30):
        truth = [Thing(rng.choice("ab"), box()) for _ in range(rng.randrange(4))]  # type: ignore[arg-type]
        near = [
            Thing(one.label, tuple(edge + rng.randrange(30) for edge in one.corners), 1 if sure else rng.random())  # type: ignore[arg-type]
            for one in truth
        ]
        far = [Thing("a", box(), 1 if sure else rng.random()) for _ in range(rng.randrange(3))]  # type: ignore[arg-type]
        judged.append(Judged(tuple(truth), tuple(near[: rng.randrange(5)] + far)))
    return judged


def by_hand(judged: Sequence[Judged], label: str, threshold: float) -> float:
    """Average precision of one class: the surest box first, each takes the free object that it overlaps most."""
    objects = sum(thing.label == label for each in judged for thing in each.truth)
    taken: set[tuple[int, int]] = set()
    boxes = [(thing, at) for at, each in enumerate(judged) for thing in each.found if thing.label == label]
    hits = []
    for box, at in sorted(boxes, key=lambda pair: -pair[0].confidence):
        free = [
            (float(ious([one.corners], [box.corners])[0, 0]), place)
            for place, one in enumerate(judged[at].truth)
            if one.label == label and (at, place) not in taken
        ]
        best = max(free, default=(0.0, -1))
        hits.append(best[0] >= threshold)
        if hits[-1]:
            taken.add((at, best[1]))
    right = numpy.cumsum(hits)
    precision, recall = right / numpy.arange(1, len(hits) + 1), right / objects
    reached = [precision[recall >= level] for level in numpy.linspace(0, 1, 101)]
    return float(numpy.mean([values.max() if len(values) else 0.0 for values in reached]))


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_a_computation_of_our_own(seed: int) -> None:
    judged = drawn(seed)
    levels = numpy.linspace(0.5, 0.95, 10)

    found = average_precision(judged)

    assert found.at_50 == pytest.approx(numpy.mean([by_hand(judged, label, 0.5) for label in "ab"]))
    every = [by_hand(judged, label, level) for label in "ab" for level in levels]
    assert found.at_50_95 == pytest.approx(numpy.mean(every))


@pytest.mark.parametrize("sure", [False, True])
def test_no_order_of_pictures_changes_it_also_where_all_boxes_are_equally_sure(sure: bool) -> None:
    judged = drawn(7, sure=sure)
    figures = set()
    for seed in range(5):
        Random(seed).shuffle(judged)
        figures.add(average_precision(judged).at_50_95)

    assert len(figures) == 1


def test_it_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    average_precision([right()])

    assert capsys.readouterr().out == ""
