"""How a job moves once it is in the queue: claimed, renewed, ended, reaped, cancelled.

Each function is the body of one transaction; the caller commits. Every write of a worker carries its attempt
number, so that one that was given up changes nothing.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.orm import Session

from control.endings import Ended, follow_up
from control.failures import failure_of
from control.retrying import Backoff, retry_delay
from db import artefacts, jobs, queue
from db.clock import from_now
from db.models import Artefact, Job, Outcome
from db.owned import owned_row
from vlyard.errors import Blame, Conflict, InvalidInput, StaleAttempt, WorkerLost
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Failure


@dataclass(frozen=True)
class Work:
    """A claimed job with everything that its handler needs from the database."""

    claimed: queue.Claimed
    inputs: Sequence[Artefact]


@dataclass(frozen=True)
class Ending:
    """How an attempt ended."""

    pair: queue.Pair
    outcome: Outcome
    result: Mapping[str, Any] | None = None
    failure: Failure | None = None
    artefacts: Sequence[Mapping[str, Any]] = field(default=())


@dataclass(frozen=True)
class Rules:
    """When attempts are given up and tried again."""

    lease_seconds: float
    backoff: Backoff
    rng: random.Random


def claim(session: Session, worker: UUID, pair: queue.Pair, rules: Rules) -> queue.Claimed | None:
    """Take a dispatched job; None where its doorbell was stale, doubled or late."""
    claimed = queue.claim(session, worker, [pair], rules.lease_seconds)
    return claimed[0] if claimed else None


def inputs_of(session: Session, claimed: queue.Claimed, wanted: Sequence[UUID]) -> Sequence[Artefact]:
    """The artefacts that a claimed job reads, in the order asked for."""
    found = {artefact.id: artefact for artefact in artefacts.ready(session, claimed.team, wanted)}
    missing = [identity for identity in wanted if identity not in found]
    if missing:
        raise InvalidInput(f"the artefact {missing[0]} does not exist any more")
    return [found[identity] for identity in wanted]


def finish(session: Session, worker: UUID, ending: Ending, rules: Rules) -> State:
    """Record how an attempt ended; returns the job's new state. Raises `StaleAttempt` where it is not its own."""
    job = queue.lock_held(session, worker, ending.pair)
    if job is None:
        raise StaleAttempt(f"attempt {ending.pair[1]} no longer holds job {ending.pair[0]}")
    if ending.outcome is Outcome.SUCCEEDED:
        artefacts.insert_ready(session, _made_by(job, ending.artefacts))
    return _conclude(session, job, ending, rules)


def reap(session: Session, rules: Rules, limit: int = 500) -> int:
    """Close the attempts whose leases have run out; returns how many."""
    lost = failure_of(WorkerLost())
    expired = queue.lock_expired(session, limit)
    for job in expired:
        _conclude(session, job, Ending((job.job, job.attempt), Outcome.LOST, failure=lost), rules)
    return len(expired)


def cancel(session: Session, team: UUID, job: UUID) -> Job:
    """Cancel a job: at once while it waits, through its worker while it runs; raises `Conflict` once it has ended."""
    row = owned_row(session, Job, team, job, lock=True)  # so that nobody claims or ends it between the two statements
    if jobs.cancel_waiting(session, team, job):
        follow_up(session, [Ended(job, team, State.CANCELLED)])
    elif not jobs.request_cancel(session, team, job):
        raise Conflict(f"the job has ended already: it is {row.state}")
    session.refresh(row)
    return row


def _conclude(session: Session, job: queue.Held, ending: Ending, rules: Rules) -> State:
    target, values = _next_state(job, ending, rules)
    error = ending.failure.model_dump(mode="json") if ending.failure else None
    queue.end_attempt(session, job, outcome=ending.outcome, target=target, values=values, error=error)
    if target in TERMINAL:
        follow_up(session, [Ended(job.job, job.team, target)])
    return target


def _next_state(job: queue.Held, ending: Ending, rules: Rules) -> tuple[State, dict[str, Any]]:
    over = {"finished_at": func.now()}
    if ending.outcome is Outcome.SUCCEEDED:
        return State.SUCCEEDED, {"result": ending.result, "error": None, **over}
    if ending.outcome is Outcome.CANCELLED or job.cancel_requested:
        return State.CANCELLED, over
    failures = job.failures + 1
    values: dict[str, Any] = {"failures": failures}
    if ending.failure is not None:
        values["error"] = ending.failure.model_dump(mode="json")
    blame = ending.failure.blame if ending.failure else Blame.TRANSIENT
    delay = retry_delay(blame, failures, job.max_attempts, rules.backoff, rules.rng)
    if delay is None:
        return State.FAILED, {**values, **over}
    return State.QUEUED, {**values, "available_at": from_now(delay), "worker_id": None, "progress": None}


def _made_by(job: queue.Held, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [{**row, "team_id": job.team, "job_id": job.job, "attempt": job.attempt} for row in rows]
