"""What goes wrong while rows are answered, and whom it concerns."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from time import monotonic, sleep

import pytest
import torch

from tests.qwen.test_engine import TOGETHER, a_model_that, ask_together, expected, requests, submit
from vlyard.errors import Cancelled, OutOfMemory
from workers.qwen.engine import Engine
from workers.qwen.inputs import encode
from workers.qwen.loading import LoadedModel
from workers.qwen.sampling import GREEDY, Sampling

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


def test_who_waits_to_go_on_hears_that_it_is_cancelled(demo: LoadedModel) -> None:
    heard: list[list[float]] = [[] for _ in range(4)]
    cancelled: dict[int, float] = {}

    def breaks(rows: int, tokens: int) -> None:
        if tokens == 1 and rows > 1:
            raise ZeroDivisionError("out of the blue")
        sleep(0.05)  # a model that takes its time: who waits looks ten times a second

    def check(row: int) -> None:
        """One of them goes on first, whichever it is: the others are cancelled meanwhile."""
        if len(heard[row]) <= 1 and max(map(len, heard)) > 3:
            cancelled.setdefault(row, monotonic())
            raise Cancelled

    asked = [replace(requests()[0], sampling=Sampling(400, repetition_penalty=3.0, seed=seed)) for seed in range(4)]
    told = {row: lambda _, row=row: heard[row].append(monotonic()) for row in range(4)}
    with a_model_that(demo, breaks):
        said = ask_together(demo, asked, {row: partial(check, row) for row in range(4)}, told=told)

    [first] = set(range(4)) - set(cancelled)
    assert max(cancelled.values()) < heard[first][-1]  # and not once the first was done
    for row, each in enumerate(said):
        ended = each.result()
        assert (ended.finish_reason == "cancelled", ended.completion_tokens == 1) == (row != first, row != first)


def test_where_memory_runs_out_beside_a_row_that_has_ended_the_other_goes_on_alone(
    demo: LoadedModel, expected: list[str]
) -> None:
    asked = [requests()[0], replace(requests()[1], sampling=replace(GREEDY, max_new_tokens=3))]
    steps: list[int] = []

    def has_little_memory(rows: int, tokens: int) -> None:
        steps.append(rows)
        if rows > 1 and len(steps) > 3:
            raise torch.OutOfMemoryError("the cards are full")

    with a_model_that(demo, has_little_memory) as small:
        said = ask_together(small, asked, limits=replace(TOGETHER, batch_rows=2))

    assert said[0].result().text == expected[0]
    assert said[1].result().completion_tokens == 3
    assert steps[:5] == [2, 2, 2, 2, 1]
