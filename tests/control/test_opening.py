"""What plain transformers say of an export, beside what a job said."""

import pytest

from control.stack.opening import expect_same
from vlyard.errors import VLyardError

ONE = '{"bbox_2d": [1, 2, 3, 4], "label": "a"}'


@pytest.mark.parametrize(
    ("answer", "told", "whole"),
    [
        (f"[{ONE}]\n", f"[{ONE}]", True),
        (f"[{ONE}, {ONE}, {ONE}", f"[{ONE}, {ONE}", False),  # the job was stopped there
    ],
)
def test_the_same_answer_is_the_same_word_for_word(answer: str, told: str, whole: bool) -> None:
    expect_same(answer, told, whole=whole)


@pytest.mark.parametrize(
    ("answer", "told", "whole"),
    [
        (f"[{ONE}, {ONE}]", f"[{ONE}]", True),  # a box more
        ("[]", "", True),
        (f"[{ONE}]".replace("4", "5"), f"[{ONE}]", True),
        (f"[{ONE}", f"[{ONE}, {ONE}", False),
    ],
)
def test_an_export_that_says_more_less_or_something_else_is_not_the_same(answer: str, told: str, whole: bool) -> None:
    with pytest.raises(VLyardError, match="where the job's answer was"):
        expect_same(answer, told, whole=whole)
