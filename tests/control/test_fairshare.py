"""Who goes next: as tables, and as properties of any question that can be asked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations, product
from random import Random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.fairshare import Running, Share, Slots, Waiting, choose, seated

A, B, C = (UUID(int=number) for number in (1, 2, 3))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KINDS = ("conversion", "inference", "noop")


def job(number: int, team: UUID = A, kind: str = "noop", priority: int = 0) -> Waiting:
    """Job number n was submitted n seconds after noon."""
    return Waiting(UUID(int=number), team, kind, priority, NOON + timedelta(seconds=number))


def slots(*groups: tuple[str, int]) -> list[Slots]:
    return [Slots(frozenset(kinds.split()), count) for kinds, count in groups]


def numbers(chosen: Sequence[Waiting]) -> list[int]:
    return [row.job.int for row in chosen]


# --- tables ---------------------------------------------------------------------------------------------------

FOUR = [job(1), job(2, B), job(3), job(4, B)]

TABLE: dict[str, tuple[list[Waiting], list[Running], dict[UUID, Share], list[Slots], list[int]]] = {
    "first_come_first_served": (FOUR, [], {}, slots(("noop", 3)), [1, 2, 3]),
    "no_worker_no_job": (FOUR, [], {}, [], []),
    "taken_slots_are_taken": (FOUR, [Running(C, "noop", 2)], {}, slots(("noop", 3)), [1]),
    "full": (FOUR, [Running(C, "noop", 3)], {}, slots(("noop", 3)), []),
    "urgent_jobs_of_the_same_moment_keep_the_teams_place": (
        [Waiting(UUID(int=number), team, "noop", number, NOON) for number, team in ((1, A), (2, B), (3, A))],
        [], {}, slots(("noop", 2)), [3, 2],
    ),
    "more_than_full": (FOUR, [Running(C, "noop", 9)], {}, slots(("noop", 3)), []),
    "a_team_stays_below_its_limit": (FOUR, [], {A: Share(max_running=1)}, slots(("noop", 9)), [1, 2, 4]),
    "what_runs_counts_toward_the_limit": (
        FOUR, [Running(A, "conversion", 1)], {A: Share(max_running=1)}, slots(("noop conversion", 9)), [2, 4],
    ),
    "a_limit_of_nothing": (FOUR, [], {A: Share(max_running=0)}, slots(("noop", 9)), [2, 4]),
    "urgent_within_the_team": ([job(1), job(2), job(3, priority=9)], [], {}, slots(("noop", 2)), [3, 1]),
    "urgent_does_not_overtake_others": ([job(1, B), job(2), job(3, priority=9)], [], {}, slots(("noop", 2)), [1, 3]),
    "a_kind_that_nobody_serves_holds_up_nobody": (
        [job(1, kind="inference"), job(2)], [], {}, slots(("noop", 1)), [2],
    ),
    "the_last_versatile_slot_is_left_to_who_needs_it": (
        [job(1), job(2, kind="conversion")], [], {}, slots(("noop conversion", 1), ("noop", 1)), [1, 2],
    ),
    "a_kind_that_holds_more_than_its_slots_holds_up_nobody": (
        [job(1), job(2)], [Running(B, "conversion", 4)], {}, slots(("conversion", 1), ("noop", 2)), [1, 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_choice_is_as_the_table_says(name: str) -> None:
    waiting, running, shares, groups, expected = TABLE[name]
    assert numbers(choose(waiting, running, {}, shares, groups)) == expected


# --- properties -----------------------------------------------------------------------------------------------

GROUPS = st.lists(
    st.builds(Slots, st.frozensets(st.sampled_from(KINDS), min_size=1), st.integers(0, 2)), min_size=0, max_size=3
)
RUNNING = st.lists(
    st.builds(Running, st.sampled_from([A, B, C]), st.sampled_from(KINDS), st.integers(0, 2)), max_size=3
)
SHARES = st.dictionaries(
    st.sampled_from([A, B, C]), st.builds(Share, st.just(1.0), st.none() | st.integers(0, 3)), max_size=3
)
JOBS = st.lists(
    st.tuples(st.sampled_from([A, B, C]), st.sampled_from(KINDS), st.integers(-1, 1), st.integers(0, 3)), max_size=7
).map(
    lambda rows: [
        Waiting(UUID(int=number), team, kind, priority, NOON + timedelta(seconds=second))
        for number, (team, kind, priority, second) in enumerate(rows)
    ]
)


def most_seated(kinds: Sequence[str], groups: Sequence[Slots]) -> int:
    """How many jobs of these kinds have a slot at most, by trying every slot for every job."""
    free = tuple(group.count for group in groups)
    best = {free: 0}  # the slots left, and the most that sit when so many are left
    for kind in kinds:
        tried = dict(best)
        for (left, count), index in product(best.items(), range(len(groups))):
            if left[index] and kind in groups[index].kinds:
                after = tuple(number - (place == index) for place, number in enumerate(left))
                tried[after] = max(tried.get(after, 0), count + 1)
        best = tried
    return max(best.values())


def demand(running: Sequence[Running], chosen: Sequence[Waiting]) -> list[str]:
    return [row.kind for row in running for _ in range(row.count)] + [row.kind for row in chosen]


def held_by(team: UUID, running: Sequence[Running], chosen: Sequence[Waiting]) -> int:
    return sum(row.count for row in running if row.team == team) + sum(row.team == team for row in chosen)


@settings(max_examples=150)
@given(st.lists(st.sampled_from(KINDS), max_size=7), GROUPS)
def test_seated_is_what_trying_every_slot_finds(kinds: list[str], groups: list[Slots]) -> None:
    assert seated(Counter(kinds), groups) == most_seated(kinds, groups)


@settings(max_examples=200)
@given(JOBS, RUNNING, SHARES, GROUPS)
def test_every_choice_keeps_the_limits_fits_and_leaves_no_slot_idle(
    waiting: list[Waiting], running: list[Running], shares: Mapping[UUID, Share], groups: list[Slots]
) -> None:
    chosen = choose(waiting, running, {}, shares, groups)
    ids = numbers(chosen)
    # every one is a job that waits, and is chosen once
    assert len(set(ids)) == len(ids)
    assert all(row in waiting for row in chosen)
    # no team has more than its limit because of what was chosen
    for team in {row.team for row in chosen}:
        limit = shares.get(team, Share()).max_running
        assert limit is None or held_by(team, running, chosen) <= limit
    # everything that was chosen got a slot that was free
    taken = most_seated(demand(running, []), groups)
    assert most_seated(demand(running, chosen), groups) == taken + len(chosen)
    # and whoever was not chosen is at the limit, or would have got none
    for left in (row for row in waiting if row.job.int not in ids):
        limit = shares.get(left.team, Share()).max_running
        is_limited = limit is not None and held_by(left.team, running, chosen) >= limit
        assert is_limited or most_seated(demand(running, [*chosen, left]), groups) == taken + len(chosen)


@settings(max_examples=100)
@given(JOBS, RUNNING, SHARES, GROUPS, st.integers())
def test_the_order_of_the_question_does_not_change_the_answer(
    waiting: list[Waiting], running: list[Running], shares: Mapping[UUID, Share], groups: list[Slots], seed: int
) -> None:
    shuffled = [Random(seed).sample(rows, len(rows)) for rows in (waiting, running, groups)]
    again = choose(shuffled[0], shuffled[1], {}, shares, shuffled[2])  # type: ignore[arg-type]
    assert again == choose(waiting, running, {}, shares, groups)


@settings(max_examples=100)
@given(JOBS, st.integers(0, 4), st.integers(-5, 5))
def test_a_team_cannot_gain_places_by_priority(waiting: list[Waiting], count: int, priority: int) -> None:
    def places(jobs: Sequence[Waiting]) -> Counter[UUID]:
        return Counter(row.team for row in choose(jobs, [], {}, {}, [Slots(frozenset(KINDS), count)]))

    boosted = [Waiting(row.job, row.team, row.kind, priority, row.since) if row.team == A else row for row in waiting]
    assert places(boosted) == places(waiting)


def test_within_a_team_every_order_of_priorities_is_kept() -> None:
    for priorities in permutations((-1, 0, 5)):
        waiting = [job(number, priority=priority) for number, priority in enumerate(priorities)]
        chosen = choose(waiting, [], {}, {}, slots(("noop", 3)))
        assert [row.priority for row in chosen] == [5, 0, -1]
