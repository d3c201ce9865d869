"""How far the answers of an export may be from those that it has to give, and what counts as far."""

import pytest
import torch
from PIL import Image

from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.verifying.answers import Answered, Question
from workers.qwen.verifying.judging import BOUNDS, bound_of, judge


@pytest.fixture
def questions() -> list[Question]:
    return [Question(Image.new("RGB", (8, 8)), DEFAULT_PROMPT, f"{number}.png") for number in range(2)]


@pytest.mark.parametrize(
    ("stored", "computed", "as_for"),
    [
        ("fp32", torch.float32, "fp32"),
        ("fp32", torch.bfloat16, "bf16"),
        ("fp16", torch.bfloat16, "bf16"),
        ("bf16", torch.float32, "bf16"),
        ("mixed", torch.float32, "bf16"),
        ("int4", torch.float32, "int4"),
    ],
)
def test_what_is_allowed_is_what_the_coarser_of_storing_and_computing_costs(
    stored: str, computed: torch.dtype, as_for: str
) -> None:
    assert bound_of(stored, computed) == BOUNDS[as_for]


def answered(text: str, logits: list[list[float]]) -> Answered:
    return Answered(torch.arange(3), torch.zeros(4, 2), torch.tensor(logits), text)


BOX, MOVED, FAR = (
    f'[{{"bbox_2d": {box}, "label": "cat"}}]' for box in ("[0, 0, 500, 500]", "[0, 0, 500, 450]", "[1, 1, 9, 9]")
)


def test_logits_further_apart_than_the_dtype_allows_are_told_with_the_question(questions: list[Question]) -> None:
    given = [answered(BOX, [[0.0, 10.0, 5.0]]), answered(BOX, [[0.0, 10.0, 5.0]])]
    for apart, fine in ((0.0005, True), (0.002, False), (float("nan"), False)):
        made = [given[0], answered(BOX, [[0.0, 10.0, 5.0 + apart]])]

        judged = judge(questions, given, made, BOUNDS["fp32"])

        assert [complaint.where for complaint in judged.complaints] == ([] if fine else [questions[1].name])


def test_boxes_that_moved_further_than_the_dtype_allows_are_told_with_their_mean_iou(questions: list[Question]) -> None:
    same = [[0.0, 10.0, 5.0]]
    given = [answered(BOX, same), answered(BOX, same)]

    near = judge(questions, given, [answered(BOX, same), answered(MOVED, same)], BOUNDS["bf16"])
    far = judge(questions, given, [answered(BOX, same), answered(FAR, same)], BOUNDS["bf16"])
    none = judge(questions, given, [answered(BOX, same), answered("nothing", same)], BOUNDS["bf16"])

    assert (near.complaints, near.same, near.boxes) == ([], 1, 2)
    assert near.mean_iou == pytest.approx(0.95)
    assert "the mean IoU of its boxes" in str(far.complaints[0])
    assert none.mean_iou == 0.5
    assert none.complaints


def test_boxes_that_only_the_export_has_count_as_much_as_those_that_it_lacks(questions: list[Question]) -> None:
    same = [[0.0, 10.0, 5.0]]
    two = BOX.replace("}]", '}, {"bbox_2d": [600, 600, 900, 900], "label": "cat"}]')

    judged = judge(questions[:1], [answered(BOX, same)], [answered(two, same)], BOUNDS["bf16"])

    assert (judged.boxes, judged.mean_iou) == (2, 0.5)
    assert judged.complaints
