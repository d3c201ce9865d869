"""Which box is which: the best of all ways to pair them, whatever their order."""

from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlyard.formats.answer import parse_answer
from workers.qwen.grounding.matching import ious, match, match_by_overlap
from workers.qwen.grounding.objects import Corners, Naming, Thing, things

WHOLE = (0.0, 0.0, 100.0, 100.0)


def things_strategy(most: int) -> st.SearchStrategy[list[Thing]]:
    """On a coarse grid, so that there are many ties."""
    edges = st.tuples(st.integers(0, 3), st.integers(1, 3)).map(lambda pair: (pair[0] * 10.0, sum(pair) * 10.0))
    corners = st.tuples(edges, edges).map(lambda both: (both[0][0], both[1][0], both[0][1], both[1][1]))
    return st.lists(st.builds(Thing, st.sampled_from("ab"), corners), max_size=most)


def best_by_hand(truth: Sequence[Thing], found: Sequence[Thing], threshold: float) -> tuple[int, float]:
    """The most pairs, and the largest sum of IoU of those with the most, by trying all."""
    if len(truth) > len(found):
        truth, found = found, truth
    best = (0, 0.0)
    for chosen in permutations(range(len(found)), len(truth)):
        overlaps = [
            float(ious([one.corners], [found[at].corners])[0, 0])
            for one, at in zip(truth, chosen, strict=True)
            if one.label == found[at].label
        ]
        good = [overlap for overlap in overlaps if overlap >= threshold]
        best = max(best, (len(good), round(sum(good), 9)))
    return best


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (WHOLE, WHOLE, 1.0),
        (WHOLE, (0, 0, 100, 50), 0.5),
        (WHOLE, (50, 0, 150, 100), 1 / 3),
        (WHOLE, (100, 0, 200, 100), 0.0),  # they touch
        (WHOLE, (300, 300, 400, 400), 0.0),
        ((5, 5, 5, 5), (5, 5, 5, 5), 0.0),  # both are empty
    ],
)
def test_the_iou_is_what_two_boxes_share_of_what_they_cover(one: Corners, other: Corners, expected: float) -> None:
    assert ious([one], [other])[0, 0] == pytest.approx(expected)


def test_the_threshold_itself_is_enough() -> None:
    truth, found = [Thing("a", WHOLE)], [Thing("a", (0, 0, 100, 50))]

    assert len(match(truth, found, 0.5)) == 1
    assert match(truth, found, 0.51) == []


def test_labels_must_agree_unless_they_are_ignored() -> None:
    truth, found = [Thing("a", WHOLE)], [Thing("b", WHOLE)]

    assert match(truth, found, 0.5) == []
    assert match(truth, found, 0.5, ignore_labels=True) == [(0, 0, 1.0)]


def test_a_second_box_around_the_same_object_has_no_match() -> None:
    assert match([Thing("a", WHOLE)], [Thing("a", (0, 0, 100, 90)), Thing("a", WHOLE)], 0.5) == [(0, 1, 1.0)]


def test_more_pairs_are_better_than_a_closer_one() -> None:
    # given a box that fits the second object perfectly and is the only one that fits the first
    truth = [Thing("a", WHOLE), Thing("a", (0, 0, 100, 60))]
    found = [Thing("a", (0, 0, 100, 60)), Thing("a", (0, 0, 100, 31))]

    # then a greedy choice of the closest would leave the first object without one
    assert [(pair.truth, pair.found) for pair in match(truth, found, 0.5)] == [(0, 0), (1, 1)]


def test_by_overlap_the_sum_counts_and_not_the_number() -> None:
    truth = [Thing("a", WHOLE), Thing("a", (0, 0, 100, 60))]
    found = [Thing("a", (0, 0, 100, 60)), Thing("a", (0, 59, 100, 61))]

    assert [(pair.truth, pair.found) for pair in match_by_overlap(truth, found)] == [(0, 1), (1, 0)]


@settings(max_examples=60)
@given(truth=things_strategy(4), found=things_strategy(4), threshold=st.sampled_from([0.25, 0.5, 0.75]))
def test_no_other_way_to_pair_them_is_better(truth: list[Thing], found: list[Thing], threshold: float) -> None:
    pairs = match(truth, found, threshold)

    assert (len(pairs), round(sum(pair.iou for pair in pairs), 9)) == pytest.approx(
        best_by_hand(truth, found, threshold)
    )
    assert len({pair.truth for pair in pairs}) == len({pair.found for pair in pairs}) == len(pairs)


@settings(max_examples=60)
@given(truth=things_strategy(5), found=things_strategy(5), data=st.data())
def test_which_boxes_are_matched_does_not_depend_on_their_order(
    truth: list[Thing], found: list[Thing], data: st.DataObject
) -> None:
    other_truth, other_found = data.draw(st.permutations(truth)), data.draw(st.permutations(found))

    def told(truth: Sequence[Thing], found: Sequence[Thing]) -> list[tuple[Thing, Thing]]:
        pairs = match(truth, found, 0.5, ignore_labels=True)
        return sorted(
            ((truth[pair.truth], found[pair.found]) for pair in pairs), key=lambda both: (both[0].rank, both[1].rank)
        )

    assert told(truth, found) == told(other_truth, other_found)


@pytest.mark.parametrize(
    ("naming", "said", "name"),
    [
        (Naming(), "Car", "Car"),
        (Naming(ignore_case=True), "Car", "car"),
        (Naming({"auto": "car"}), "auto", "car"),
        (Naming({"auto": "car"}), "Auto", "Auto"),
        (Naming({"auto": "Car"}, ignore_case=True), "AUTO", "car"),
    ],
)
def test_aliases_and_case_decide_the_name_that_counts(naming: Naming, said: str, name: str) -> None:
    [thing] = things(parse_answer(f'[{{"bbox_2d": [1, 2, 3, 4], "label": "{said}"}}]'), naming)

    assert thing.label == name


def test_what_lies_outside_of_the_picture_is_cut_off_and_points_are_no_boxes() -> None:
    answer = parse_answer('[{"bbox_2d": [-50, 900, 100, 1200], "label": "a"}, {"point_2d": [5, 5], "label": "b"}]')

    assert things(answer) == (Thing("a", (0, 900, 100, 1000)),)
