"""The life of a job: its states, and every move that is allowed between them. Nothing else changes a state."""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    BLOCKED = "blocked"  # waits for another job's output
    QUEUED = "queued"  # waits for a free slot; its turn comes when `available_at` has passed
    DISPATCHED = "dispatched"  # its doorbell was rung: the first worker that claims the attempt has it
    RUNNING = "running"  # a worker holds its lease
    SUCCEEDED = "succeeded"  # its result and artefacts are recorded
    FAILED = "failed"  # its error says why, and no attempt is left
    CANCELLED = "cancelled"  # somebody asked for that


MOVES: Mapping[State, frozenset[State]] = {
    State.BLOCKED: frozenset({State.QUEUED, State.FAILED, State.CANCELLED}),
    State.QUEUED: frozenset({State.DISPATCHED, State.FAILED, State.CANCELLED}),
    State.DISPATCHED: frozenset({State.RUNNING, State.QUEUED, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUEUED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}

TERMINAL: frozenset[State] = frozenset(state for state, targets in MOVES.items() if not targets)


def sources(target: State) -> tuple[State, ...]:
    """The states from which a job may move to `target`: what an UPDATE's WHERE clause compares with."""
    return tuple(state for state in State if target in MOVES[state])
