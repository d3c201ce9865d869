"""The worker's side of the queue: claiming, renewing and ending attempts, each for many jobs in one statement.

Every statement carries the attempt's number, which is the fencing token: who was given up changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    Double,
    Integer,
    Select,
    TableValuedAlias,
    Text,
    Uuid,
    case,
    cast,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from db.arrays import as_table
from db.clock import from_now, seconds
from db.jobs import append_events, moved_to
from db.models import Attempt, Job, Outcome
from db.queue import Pair
from db.session import to_json
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State


@dataclass(frozen=True)
class Claimed:
    """A job that a worker holds now."""

    job: UUID
    attempt: int
    team: UUID
    kind: str
    spec: Mapping[str, Any]
    max_runtime_seconds: float | None


@dataclass(frozen=True)
class Held:
    """A running job whose row this transaction has locked."""

    job: UUID
    attempt: int
    team: UUID
    device: Device
    failures: int
    max_attempts: int
    cancel_requested: bool
    last_event: int
    in_company: bool  # it shares its message with others, any of which may be why the worker died


@dataclass(frozen=True)
class Closing:
    """How the attempt of a locked job ends, and where its job goes."""

    held: Held
    outcome: Outcome
    target: State
    failures: int  # the job's, this one counted where it counts
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    delay: float = 0.0  # seconds until the next attempt, where there is one
    spent: float | None = None  # seconds in the handler, where the worker knows better than the claim
    alone: bool = False


@dataclass(frozen=True)
class Renewed:
    """A lease that was renewed, and what its owner has been asked meanwhile."""

    job: UUID
    attempt: int
    cancel_requested: bool


def claim(session: Session, worker: UUID, pairs: Sequence[Pair], lease_seconds: float) -> Sequence[Claimed]:
    """Take dispatched jobs, if their attempts are still the current ones: one compare-and-set for all of them."""
    statement = (
        moved_to(State.RUNNING)
        .where(tuple_(Job.id, Job.attempt).in_(pairs))
        .values(
            worker_id=worker,
            claimed_at=func.now(),
            started_at=case((Job.bundle.is_(None), func.now())),  # a bundle's members begin one after the other
            lease_until=from_now(lease_seconds),
            progress=None,
        )
        .returning(Job.id, Job.attempt, Job.team_id, Job.kind, Job.spec, Job.max_runtime_seconds, Job.last_event)
    )
    rows = session.execute(statement).all()
    if rows:
        session.execute(insert(Attempt), [{"job_id": r.id, "number": r.attempt, "worker_id": worker} for r in rows])
    append_events(session, [(r.id, r.last_event, {"state": State.RUNNING, "attempt": r.attempt}) for r in rows])
    return [Claimed(row.id, row.attempt, row.team_id, row.kind, row.spec, row.max_runtime_seconds) for row in rows]


def note_starts(session: Session, worker: UUID, spent: Mapping[Pair, float]) -> None:
    """Store when handlers began, each so many seconds ago, where that is not known yet."""
    jobs, attempts = [job for job, _ in spent], [attempt for _, attempt in spent]
    began = as_table("began", job=(Uuid, jobs), attempt=(Integer, attempts), spent=(Double, list(spent.values())))
    session.execute(
        update(Job)
        .where(Job.id == began.c.job, Job.attempt == began.c.attempt, Job.worker_id == worker)
        .where(Job.state == State.RUNNING, Job.started_at.is_(None))
        .values(started_at=func.now() - seconds(began.c.spent))
    )


def renew(session: Session, worker: UUID, pairs: Sequence[Pair], lease_seconds: float) -> Sequence[Renewed]:
    """Renew the leases that the worker still holds; a pair that does not come back is no longer its own."""
    jobs = lock_held(session, worker, pairs)  # in its order, or a renewal and a batch of endings could deadlock
    renewed = update(Job).where(Job.id.in_([job.job for job in jobs])).values(lease_until=from_now(lease_seconds))
    session.execute(renewed)
    return [Renewed(job.job, job.attempt, job.cancel_requested) for job in jobs]


def record_progress(session: Session, worker: UUID, pair: Pair, progress: Mapping[str, Any]) -> None:
    """Store how far an attempt is, unless the attempt is no longer the worker's."""
    statement = (
        update(Job)
        .where(Job.id == pair[0], Job.attempt == pair[1], Job.worker_id == worker, Job.state == State.RUNNING)
        .values(progress=dict(progress), last_event=Job.last_event + 1)
        .returning(Job.id, Job.last_event)
    )
    rows = session.execute(statement).all()
    append_events(session, [(row.id, row.last_event, dict(progress)) for row in rows], type="progress")


def lock_held(session: Session, worker: UUID, pairs: Sequence[Pair]) -> Sequence[Held]:
    """Those of these attempts that the worker still holds, locked."""
    query = _locked(skip=False).where(
        tuple_(Job.id, Job.attempt).in_(pairs), Job.worker_id == worker, Job.state == State.RUNNING
    )
    return _held_rows(session, query.order_by(Job.id))  # in one order, so that two of them never wait for each other


def end_attempts(session: Session, closings: Sequence[Closing]) -> None:
    """Close the attempts of locked jobs and move the jobs on: one statement for each state that they move to."""
    for target in {closing.target for closing in closings}:
        rows = [closing for closing in closings if closing.target is target]
        new = _closing_rows(rows)
        error = cast(new.c.error, JSONB)
        values: dict[str, Any] = {
            "lease_until": None,
            "bundle": None,
            "failures": new.c.failures,
            "result": cast(new.c.result, JSONB),
            "error": error if target is State.SUCCEEDED else func.coalesce(error, Job.error),
            "started_at": func.coalesce(Job.started_at, func.now() - seconds(new.c.spent)),
        }
        if target is State.QUEUED:
            values |= {"available_at": func.now() + seconds(new.c.delay), "worker_id": None, "progress": None}
            values |= {"started_at": None, "alone": new.c.alone}
        else:
            values["finished_at"] = func.now()
        session.execute(moved_to(target, State.RUNNING).where(Job.id == new.c.job).values(values))
    _end_attempt_rows(session, closings)
    append_events(session, [(each.held.job, each.held.last_event + 1, _told(each)) for each in closings])


def _closing_rows(rows: Sequence[Closing]) -> TableValuedAlias:
    return as_table(
        "new",
        job=(Uuid, [row.held.job for row in rows]),
        result=(Text, [None if row.result is None else to_json(row.result) for row in rows]),
        error=(Text, [None if row.error is None else to_json(row.error) for row in rows]),
        failures=(Integer, [row.failures for row in rows]),
        delay=(Double, [row.delay for row in rows]),
        spent=(Double, [row.spent for row in rows]),
        alone=(Boolean, [row.alone for row in rows]),
    )


def _end_attempt_rows(session: Session, closings: Sequence[Closing]) -> None:
    ended = as_table(
        "ended",
        job=(Uuid, [each.held.job for each in closings]),
        number=(Integer, [each.held.attempt for each in closings]),
        outcome=(Text, [each.outcome.value for each in closings]),
        error=(Text, [None if each.error is None else to_json(each.error) for each in closings]),
        on_gpu=(Boolean, [each.held.device is Device.GPU for each in closings]),
        spent=(Double, [each.spent for each in closings]),
    )
    whole = func.extract("epoch", func.now() - Attempt.started_at)
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == ended.c.job, Attempt.number == ended.c.number)
        .values(
            ended_at=func.now(),
            outcome=ended.c.outcome,
            error=cast(ended.c.error, JSONB),
            gpu_seconds=case((ended.c.on_gpu, func.coalesce(ended.c.spent, whole)), else_=0),
        )
    )


def _told(closing: Closing) -> dict[str, Any]:
    return {
        "state": closing.target,
        "attempt": closing.held.attempt,
        "outcome": closing.outcome,
        "error": closing.error,
    }


def lock_expired(session: Session, limit: int) -> Sequence[Held]:
    """Running jobs whose lease has run out."""
    query = _locked().where(Job.state == State.RUNNING, Job.lease_until < func.now())
    return _held_rows(session, query.order_by(Job.lease_until).limit(limit))


def _locked(*, skip: bool = True) -> Select[*tuple[Any, ...]]:
    query = select(
        Job.id,
        Job.attempt,
        Job.team_id,
        Job.device,
        Job.failures,
        Job.max_attempts,
        Job.cancel_requested_at.is_not(None),
        Job.last_event,
        Job.bundle.is_not(None),
    )
    return query.with_for_update(skip_locked=skip)


def _held_rows(session: Session, query: Select[*tuple[Any, ...]]) -> Sequence[Held]:
    return [Held(*row) for row in session.execute(query)]
