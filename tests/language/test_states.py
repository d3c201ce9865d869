"""The table of moves: complete, and consistent with what is read from it."""

import pytest

from vlyard.jobs.state import MOVES, TERMINAL, State, sources


def test_the_table_says_for_every_state_where_it_may_go() -> None:
    assert set(MOVES) == set(State)
    assert all(targets <= set(State) for targets in MOVES.values())


def test_a_job_that_has_ended_stays_as_it_is() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == TERMINAL
    assert all(not MOVES[state] for state in TERMINAL)


def test_no_state_moves_to_itself() -> None:
    assert all(state not in targets for state, targets in MOVES.items())


@pytest.mark.parametrize("target", State)
def test_the_sources_of_a_state_are_the_inverse_of_its_moves(target: State) -> None:
    assert set(sources(target)) == {state for state, targets in MOVES.items() if target in targets}
    assert len(sources(target)) == len(set(sources(target)))


def test_only_a_running_job_succeeds_and_only_a_dispatched_one_begins_to_run() -> None:
    assert sources(State.SUCCEEDED) == (State.RUNNING,)
    assert sources(State.RUNNING) == (State.DISPATCHED,)
    assert sources(State.DISPATCHED) == (State.QUEUED,)


def test_every_job_that_has_not_ended_can_fail_and_be_cancelled() -> None:
    unfinished = set(State) - TERMINAL
    assert set(sources(State.FAILED)) == unfinished
    assert set(sources(State.CANCELLED)) == unfinished


def test_an_end_can_be_reached_from_every_state() -> None:
    reached = set(TERMINAL)
    while before := {state for state in State if MOVES[state] & reached} - reached:
        reached |= before
    assert reached == set(State)


def test_a_job_never_becomes_blocked_again() -> None:
    assert sources(State.BLOCKED) == ()
