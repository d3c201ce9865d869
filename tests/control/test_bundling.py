"""Short jobs that travel together: as tables, and as properties of any choice that can be made."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.bundling import bundles
from control.fairshare import Waiting

A, B = UUID(int=101), UUID(int=102)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MOST = {"noop": 3, "inference": 4, "conversion": 1}  # how many of a kind share a message


def job(
    number: int, team: UUID = A, kind: str = "noop", priority: int = 0, model: str = "", *, alone: bool = False
) -> Waiting:
    """Job number n was submitted n seconds after noon."""
    return Waiting(UUID(int=number), team, kind, priority, NOON + timedelta(seconds=number), model, alone)


def numbers(messages: Sequence[Sequence[UUID]]) -> list[list[int]]:
    return [[job.int for job in message] for message in messages]


# --- tables ---------------------------------------------------------------------------------------------------

NINE = [job(number) for number in range(1, 10)]

TABLE: dict[str, tuple[list[Waiting], list[Waiting], list[list[int]]]] = {
    "nobody_is_chosen_nobody_leaves": ([], NINE, []),
    "without_others_a_job_leaves_by_itself": ([job(1)], [job(1)], [[1]]),
    "the_oldest_come_along_as_far_as_there_is_room": ([job(1)], NINE, [[1, 2, 3]]),
    "company_is_spread_over_what_leaves_together": (NINE[:3], NINE[:5], [[1, 4], [2, 5], [3]]),
    "every_message_is_full_before_one_is_left_behind": (NINE[:2], NINE, [[1, 3, 5], [2, 4, 6]]),
    "the_chosen_never_come_along_with_one_another": (NINE[:2], NINE[:2], [[1], [2]]),
    "urgent_ones_come_along_first": ([job(1)], [*NINE[:4], job(5, priority=9)], [[1, 5, 2]]),
    "another_teams_job_stays": ([job(1)], [job(1), job(2, B), job(3)], [[1, 3]]),
    "another_kind_stays": ([job(1)], [job(1), job(2, kind="inference")], [[1]]),
    "another_model_stays": (
        [job(1, kind="inference", model="a")],
        [job(1, kind="inference", model="a"), job(2, kind="inference", model="b"), job(3, kind="inference", model="a")],
        [[1, 3]],
    ),
    "long_jobs_travel_by_themselves": ([job(1, kind="conversion")], [job(n, kind="conversion") for n in (1, 2)], [[1]]),
    "a_kind_that_the_table_does_not_know_travels_by_itself": (
        [job(1, kind="new")], [job(n, kind="new") for n in (1, 2)], [[1]],
    ),
    "who_was_lost_in_company_takes_nobody_along": ([job(1, alone=True)], [job(1, alone=True), job(2)], [[1]]),
    "who_was_lost_in_company_comes_along_with_nobody": ([job(1)], [job(1), job(2, alone=True), job(3)], [[1, 3]]),
    "company_passes_by_who_travels_alone": ([job(1, alone=True), job(2)], NINE[1:4], [[1], [2, 3, 4]]),
    "company_is_spread_within_each_group": (
        [job(1), job(2, B), job(3)], [*NINE[3:5], job(6, B)], [[1, 4], [2, 6], [3, 5]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_messages_are_as_the_table_says(name: str) -> None:
    chosen, waiting, expected = TABLE[name]
    assert numbers(bundles(chosen, waiting, MOST)) == expected


ASKED = [job(number, kind="inference") for number in range(1, 11)]  # four of them share a message

TOGETHER: dict[str, tuple[int, int, int, list[list[int]]]] = {  # chosen, waiting, slots, messages
    "few_are_spread_over_the_slots": (4, 4, 2, [[1, 3], [2, 4]]),
    "many_fill_their_messages": (6, 8, 1, [[1, 3, 5, 7], [2, 4, 6, 8]]),
    "no_message_more_than_is_needed": (6, 9, 2, [[1, 4, 7], [2, 5, 8], [3, 6, 9]]),
    "without_the_seats_some_stay": (2, 10, 1, [[1, 3, 5, 7], [2, 4, 6, 8]]),
    "one_is_one": (1, 1, 4, [[1]]),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_what_is_done_together_travels_together(name: str) -> None:
    chosen, waiting, slots, expected = TOGETHER[name]
    assert numbers(bundles(ASKED[:chosen], ASKED[:waiting], MOST, {"inference": slots})) == expected


# --- properties -----------------------------------------------------------------------------------------------

JOBS = st.lists(
    st.tuples(
        st.sampled_from([A, B]),
        st.sampled_from(sorted(MOST)),
        st.integers(-1, 1),
        st.integers(0, 3),
        st.sampled_from(["", "m"]),
        st.sampled_from([False, False, True]),
        st.sampled_from([False, False, True]),
    ),
    max_size=24,
)
Question = tuple[list[Waiting], list[Waiting]]  # chosen, waiting


def asked(rows: list[tuple[UUID, str, int, int, str, bool, bool]]) -> Question:
    waiting = [
        Waiting(UUID(int=number), team, kind, priority, NOON + timedelta(seconds=second), model, alone)
        for number, (team, kind, priority, second, model, alone, _) in enumerate(rows)
    ]
    return [row for row, (*_, is_chosen) in zip(waiting, rows, strict=True) if is_chosen], waiting


QUESTIONS = JOBS.map(asked)


def group(row: Waiting) -> tuple[UUID, str, str]:
    return row.team, row.kind, row.model


def answer(question: Question) -> list[list[Waiting]]:
    chosen, waiting = question
    by_id = {row.job: row for row in waiting}
    return [[by_id[job] for job in message] for message in bundles(chosen, waiting, MOST)]


@settings(max_examples=200)
@given(QUESTIONS)
def test_every_chosen_job_leads_one_message_and_nobody_travels_twice(question: Question) -> None:
    messages = answer(question)
    assert [message[0] for message in messages] == question[0]
    travelling = [row.job for message in messages for row in message]
    assert len(set(travelling)) == len(travelling)


@settings(max_examples=200)
@given(QUESTIONS)
def test_a_message_holds_no_more_than_its_kind_allows_and_only_one_teams_jobs_for_one_model(question: Question) -> None:
    for message in answer(question):
        assert len(message) <= MOST[message[0].kind]
        assert len({group(row) for row in message}) == 1
        assert len(message) == 1 or not any(row.alone for row in message)


@settings(max_examples=200)
@given(QUESTIONS)
def test_company_is_spread_evenly_and_nobody_stays_while_there_is_room(question: Question) -> None:
    chosen, waiting = question
    sizes = defaultdict[tuple[UUID, str, str], list[int]](list)
    for message in answer(question):
        if not message[0].alone:
            sizes[group(message[0])].append(len(message))
    for key, lengths in sizes.items():
        assert max(lengths) - min(lengths) <= 1
        able = [row for row in waiting if group(row) == key and not row.alone]
        assert sum(lengths) == min(len(able), MOST[key[1]] * len(lengths))
    assert len(answer(question)) == len(chosen)


@settings(max_examples=200)
@given(QUESTIONS)
def test_company_comes_along_by_priority_and_then_by_age(question: Question) -> None:
    def rank(row: Waiting) -> tuple[int, datetime, UUID]:
        return -row.priority, row.since, row.job

    messages = answer(question)
    companions = [row for message in messages for row in message[1:]]
    travelling = {row.job for message in messages for row in message}
    for message in messages:
        assert message[1:] == sorted(message[1:], key=rank)
    for left in (row for row in question[1] if row.job not in travelling and not row.alone):
        assert all(rank(row) < rank(left) for row in companions if group(row) == group(left))


@settings(max_examples=100)
@given(QUESTIONS, st.integers())
def test_the_order_of_those_who_wait_does_not_change_the_messages(question: Question, seed: int) -> None:
    chosen, waiting = question
    shuffled = Random(seed).sample(waiting, len(waiting))
    assert bundles(chosen, shuffled, MOST) == bundles(chosen, waiting, MOST)


@settings(max_examples=200)
@given(QUESTIONS, st.integers(1, 4))
def test_whoever_was_chosen_travels_however_many_slots_there_are(question: Question, slots: int) -> None:
    chosen, waiting = question
    messages = bundles(chosen, waiting, MOST, {"inference": slots})
    travelling = [each for message in messages for each in message]
    assert {row.job for row in chosen} <= set(travelling)
    assert len(set(travelling)) == len(travelling)
    assert sorted(travelling) == sorted(row.job for message in answer(question) for row in message)
    assert all(0 < len(message) <= 4 for message in messages)
