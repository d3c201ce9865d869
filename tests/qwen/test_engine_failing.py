"""What goes wrong while rows are answered, and whom it concerns."""

from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from tests.qwen.test_engine import TOGETHER, a_model_that, ask_together, expected, requests, submit
from vlyard.errors import OutOfMemory
from workers.qwen.engine import Engine
from workers.qwen.inputs import encode
from workers.qwen.loading import LoadedModel

__all__ = ["expected"]  # a fixture


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_where_memory_runs_out_half_as_many_are_asked_at_a_time(demo: LoadedModel, expected: list[str]) -> None:
    asked = []

    def has_little_memory(rows: int, tokens: int) -> None:
        asked.append(rows)
        if rows > 2 and tokens > 1:
            raise torch.OutOfMemoryError("the cards are full")

    with a_model_that(demo, has_little_memory) as small:
        said = ask_together(small, requests())

    assert [each.result().text for each in said] == expected
    assert asked[0] == 4


def test_where_memory_runs_out_in_the_middle_of_answers_they_go_on_in_halves(
    demo: LoadedModel, expected: list[str]
) -> None:
    steps: list[int] = []
    heard: list[str] = []

    def has_little_memory(rows: int, tokens: int) -> None:
        steps.append(rows)
        if rows > 2 and len(steps) > 8:
            raise torch.OutOfMemoryError("the cards are full")

    with a_model_that(demo, has_little_memory) as small:
        said = ask_together(small, requests(), told={0: heard.append})

    assert [each.result().text for each in said] == expected
    assert "".join(heard) == expected[0]  # nothing was told twice
    assert steps.count(4) > 4


def test_a_question_that_does_not_fit_in_memory_alone_fails_alone(demo: LoadedModel, expected: list[str]) -> None:
    longest = len(encode(demo.processor, requests()[2]).ids)

    def has_little_memory(rows: int, tokens: int) -> None:
        if tokens >= longest:
            raise torch.OutOfMemoryError("the cards are full")

    with a_model_that(demo, has_little_memory) as small:
        said = ask_together(small, requests())

    with pytest.raises(OutOfMemory, match="the cards are full"):
        said[2].result()
    assert [said[row].result().text for row in (0, 1, 3)] == [expected[row] for row in (0, 1, 3)]


def test_an_error_that_nobody_foresaw_fails_the_question_alone_whose_fault_it_is(
    demo: LoadedModel, expected: list[str]
) -> None:
    longest = len(encode(demo.processor, requests()[2]).ids)

    def breaks(rows: int, tokens: int) -> None:
        if tokens >= longest:
            raise ZeroDivisionError("out of the blue")

    with closing(Engine(demo, TOGETHER)) as engine:
        with a_model_that(demo, breaks):
            said = submit(engine, requests())
        again = submit(engine, requests())

    with pytest.raises(ZeroDivisionError, match="out of the blue"):
        said[2].result()
    assert [said[row].result().text for row in (0, 1, 3)] == [expected[row] for row in (0, 1, 3)]
    assert [each.result().text for each in again] == expected
    assert {each.result().rows for each in again} == {4}  # it keeps nobody apart later


def test_what_fails_in_the_middle_of_answers_goes_on_alone(demo: LoadedModel, expected: list[str]) -> None:
    heard: list[str] = []

    def breaks(rows: int, tokens: int) -> None:
        if tokens == 1 and rows > 1:
            raise ZeroDivisionError("out of the blue")

    with a_model_that(demo, breaks):
        said = ask_together(demo, requests(), told={0: heard.append})

    assert [each.result().text for each in said] == expected
    assert "".join(heard) == expected[0]  # nothing was told twice
