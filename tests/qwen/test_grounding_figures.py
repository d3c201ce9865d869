"""What an evaluation tells beside the primary figures: slices, classes, and how the model behaved."""

from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlyard.formats.answer import parse_answer
from vlyard.jobs.evaluation import EvaluationSpec
from workers.qwen.grounding.figures import COLUMNS, Outcome, evaluated
from workers.qwen.grounding.objects import Corners, Thing, things
from workers.qwen.grounding.scoring import Judged
from workers.qwen.grounding.slicing import Case, classes, slices

BOX, ELSEWHERE = (0, 0, 100, 100), (500, 500, 600, 600)


def spec(**more: Any) -> EvaluationSpec:
    return EvaluationSpec(dataset=UUID(int=1), bootstrap=0, **more)


def thing(label: str = "a", corners: Corners = BOX) -> Thing:
    return Thing(label, corners)


def outcome(answer: str, truth: str = "[]", reason: str = "stop") -> Outcome:
    said = parse_answer(answer)
    return Outcome(Judged(things(parse_answer(truth)), things(said)), (100, 100), said, reason)


A = '[{"bbox_2d": [0, 0, 100, 100], "label": "a"}]'
TWO = '[{"bbox_2d": [0, 0, 100, 100], "label": "a"}, {"bbox_2d": [5, 5, 99, 99], "label": "a"}]'


@pytest.mark.parametrize(
    ("outcomes", "name", "expected"),
    [
        ([outcome(TWO, A), outcome(A, A)], "counting_error", 0.5),
        ([outcome(A), outcome("[]"), outcome("[]"), outcome(A, A)], "false_alarms", 1 / 3),
        ([outcome(A), outcome("[]"), outcome(A, A)], "negatives", 2),
        ([outcome(A, A)], "false_alarms", None),
        ([outcome("None.", A), outcome("[]"), outcome(A, A), outcome(A, A)], "parse_failures", 1 / 4),
        ([outcome(f"Here: {A}", A), outcome(A, A)], "salvaged", 1 / 2),
        ([outcome(TWO[:-5], A), outcome(TWO, A)], "salvaged", 1 / 2),
        ([outcome(A.replace("[0, 0, 100, 100]", "[100, 100, 0, 0]"), A)], "salvaged", 1.0),
        ([outcome("None.", A)], "salvaged", 0.0),  # nothing was there to be mended
        ([outcome(f'{{"objects": {A}}}', A)], "salvaged", 0.0),  # a form that a conversion writes
        ([outcome(A, A, "loop"), outcome(A, A), outcome(A, A, "length")], "loops", 1 / 3),
        ([outcome(A, A), Outcome(Judged((thing(),), ()))], "unanswered", 1),
        ([outcome(A, A), Outcome(Judged((thing(),), ()))], "objects", 2),
    ],
)
def test_how_the_model_behaved_is_counted(outcomes: list[Outcome], name: str, expected: float | None) -> None:
    assert getattr(evaluated(outcomes, spec()).result, name) == pytest.approx(expected)


BOXES = st.builds(
    Thing,
    st.sampled_from("ab"),
    st.sampled_from([(0, 0, 100, 100), (0, 0, 100, 80), (10, 0, 100, 60), (500, 500, 600, 600)]),
    st.sampled_from([0.25, 0.5, 1.0]),
)


@settings(max_examples=40)
@given(
    pictures=st.lists(st.tuples(*[st.lists(BOXES, max_size=4)] * 2), min_size=1, max_size=6),
    ignore_labels=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_order_of_pictures_or_boxes_changes_any_figure_or_interval(
    pictures: list[tuple[list[Thing], list[Thing]]], ignore_labels: bool, seed: int
) -> None:
    rng = Random(seed)
    wanted = EvaluationSpec(dataset=UUID(int=1), bootstrap=20, ignore_labels=ignore_labels)

    def told(pictures: list[tuple[list[Thing], list[Thing]]]) -> tuple[Any, Any]:
        judged = [Judged(tuple(truth), tuple(found), ignore_labels) for truth, found in pictures]
        made = evaluated([Outcome(each, (90, 90), parse_answer("[]"), "stop") for each in judged], wanted)
        return made.result, (made.report["slices"], made.report["classes"])

    shuffled = [(rng.sample(truth, len(truth)), rng.sample(found, len(found))) for truth, found in pictures]
    rng.shuffle(shuffled)

    assert told(pictures) == told(shuffled)


def test_objects_of_unanswered_questions_are_missed() -> None:
    at_50 = evaluated([outcome(A, A), Outcome(Judged((thing(),), ()))], spec()).result.at_50

    assert (at_50.recall.value, at_50.precision.value, at_50.false_negatives) == (0.5, 1.0, 1)


def test_intervals_stand_around_their_figures_where_they_are_asked_for() -> None:
    outcomes = [outcome(A, A)] * 6 + [outcome("[]", A)] * 4

    with_them = evaluated(outcomes, EvaluationSpec(dataset=UUID(int=1), bootstrap=500)).result
    without = evaluated(outcomes, spec()).result

    for each in (with_them.at_50.recall, with_them.at_75.f1, with_them.mean_iou):
        assert each.low is not None
        assert each.high is not None
        assert each.low < each.value < each.high
    assert (without.at_50.recall.low, without.mean_iou.high) == (None, None)


def test_an_object_with_its_box_belongs_to_the_slice_of_the_object() -> None:
    # given a small object of 20 × 20 pixels that was found as one of 40 × 40 too much on one side, and a box elsewhere
    small, found, far = (0, 0, 200, 200), (0, 0, 300, 200), (0, 0, 1000, 1000)
    case = Case(Judged((thing("a", small),), (thing("a", found), thing("a", far))), (100, 100))

    told = slices([case])

    assert {name: (tally.truth, tally.found, tally.right) for name, tally in told["area_pixels"].items()} == {
        "small": (1, 1, 1),
        "large": (0, 1, 0),
    }
    assert list(told["side_of_picture"]) == ["20 to 40 %", "over 40 %"]
    assert told["area_pixels"]["small"].mean_iou == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "judged", "size", "slice_"),
    [
        # COCO's areas in pixels as displayed: 100 thousandths of 310, 320, 950 and 960 pixels
        ("area_pixels", Judged((thing(),), ()), (310, 310), "small"),
        ("area_pixels", Judged((thing(),), ()), (320, 320), "medium"),
        ("area_pixels", Judged((thing(),), ()), (950, 950), "medium"),
        ("area_pixels", Judged((thing(),), ()), (960, 960), "large"),
        ("area_pixels", Judged((thing(),), ()), None, "unknown"),
        ("side_of_picture", Judged((thing(),), ()), None, "10 to 20 %"),
        ("side_of_picture", Judged((thing("a", (0, 0, 10, 10)),), ()), None, "under 5 %"),
        ("picture_aspect", Judged((thing(),), ()), (100, 300), "taller than 1:2"),
        ("picture_aspect", Judged((thing(),), ()), (640, 480), "wide"),
        ("picture_aspect", Judged((thing(),), ()), (480, 640), "upright"),
        ("picture_aspect", Judged((thing(),), ()), (100, 110), "square"),
        ("picture_aspect", Judged((thing(),), ()), (200, 100), "2:1 and wider"),
        ("objects_in_picture", Judged((), (thing(),)), None, "none"),
        ("objects_in_picture", Judged((thing(),), ()), None, "1"),
        ("objects_in_picture", Judged((thing(),) * 6, ()), None, "6 to 20"),
    ],
)
def test_objects_are_sliced_by_size_shape_of_picture_and_number(
    name: str, judged: Judged, size: tuple[int, int] | None, slice_: str
) -> None:
    assert list(slices([Case(judged, size)])[name]) == [slice_]


def test_every_class_has_its_figures_also_one_that_only_answers_have() -> None:
    judged = Judged((thing("a"), thing("b", ELSEWHERE)), (thing("a"), thing("c", ELSEWHERE)))

    told = classes([Case(judged, None)])

    assert {name: (tally.truth, tally.found, tally.right) for name, tally in told.items()} == {
        "a": (1, 1, 1),
        "b": (1, 0, 0),
        "c": (0, 1, 0),
    }


def test_the_table_has_a_row_for_each_class_and_no_label_that_a_spreadsheet_computes() -> None:
    outcomes = [Outcome(Judged((thing("=1+1"), thing("b", ELSEWHERE)), (thing("=1+1"), thing("c"))), None, None)]

    rows = {row["class"]: row for row in evaluated(outcomes, spec()).rows}

    assert list(rows) == ["'=1+1", "b", "c"]
    assert all(set(row) == set(COLUMNS) for row in rows.values())
    assert rows["'=1+1"]["ap_50"] == pytest.approx(1)
    assert (rows["b"]["ap_50"], rows["c"]["ap_50"]) == (0.0, None)


def test_given_predictions_are_ranked_all_alike() -> None:
    told = evaluated([outcome(A, A)], spec(predictions=UUID(int=2)))

    assert told.result.confidence == "ones"
