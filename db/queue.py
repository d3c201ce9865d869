"""The statements that move jobs, each one set-based and backed by its own partial index.

Whoever wins the UPDATE has the job; nothing here reads first and writes later without holding the row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Text, and_, cast, func, insert, or_, select, true, tuple_, update
from sqlalchemy.orm import Session

from db.clock import from_now
from db.jobs import append_events, moved_to
from db.models import Attempt, Job, Outcome, Pool, Team, Worker
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

Pair = tuple[UUID, int]  # a job and the number of an attempt at it: what a doorbell carries


@dataclass(frozen=True)
class Doorbell:
    """What is rung when a job is dispatched."""

    job: UUID
    attempt: int
    pool: str
    kind: str
    device: Device


@dataclass(frozen=True)
class Claimed:
    """A job that a worker holds now."""

    job: UUID
    attempt: int
    team: UUID
    kind: str
    spec: Mapping[str, Any]


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


@dataclass(frozen=True)
class Renewed:
    """A lease that was renewed, and what its owner has been asked meanwhile."""

    job: UUID
    attempt: int
    cancel_requested: bool


# --- the dispatcher's side ------------------------------------------------------------------------------------


def lock_pools(session: Session) -> Sequence[str]:
    """The pools that no other dispatcher is deciding about; they are this transaction's until it ends.

    `NO KEY` lets submissions, which refer to the pool's key, go on meanwhile.
    """
    return session.scalars(
        select(Pool.name).order_by(Pool.name).with_for_update(skip_locked=True, key_share=True)
    ).all()


def capacity(session: Session, pool: str, fresh_seconds: float) -> Sequence[tuple[Device, frozenset[str], int]]:
    """The slots of the pool's living, undrained workers, by device and the kinds that they serve."""
    query = (
        select(Worker.device, Worker.kinds, func.sum(Worker.slots))
        .where(Worker.pool == pool, _alive(fresh_seconds))
        .group_by(Worker.device, Worker.kinds)
    )
    return [(device, frozenset(kinds), int(slots)) for device, kinds, slots in session.execute(query)]


def held(session: Session, pool: str, fresh_seconds: float) -> Sequence[tuple[UUID, str, int]]:
    """How many slots of living workers each (team, kind) takes up: dispatched jobs, and running ones."""
    query = (
        select(Job.team_id, Job.kind, func.count())
        .outerjoin(Worker, Worker.id == Job.worker_id)
        .where(
            Job.pool == pool,
            or_(Job.state == State.DISPATCHED, and_(Job.state == State.RUNNING, _alive(fresh_seconds))),
        )
        .group_by(Job.team_id, Job.kind)
    )
    return [(team, kind, count) for team, kind, count in session.execute(query)]


def waiting(
    session: Session, pool: str, kinds: Iterable[str], limit: int
) -> Sequence[tuple[UUID, UUID, str, int, datetime]]:
    """The first jobs of every team and kind, as (job, team, kind, priority, created): none can hide another's."""
    kind = func.unnest(cast(sorted(kinds), ARRAY(Text))).table_valued("name").render_derived(name="kind")
    first = (
        select(Job.id, Job.team_id, Job.kind, Job.priority, Job.created_at)
        .where(
            Job.team_id == Team.id,
            Job.pool == pool,
            Job.kind == kind.c.name,
            Job.state == State.QUEUED,
            Job.available_at <= func.now(),
        )
        .order_by(Job.priority.desc(), Job.id)
        .limit(limit)
        .lateral("first")
    )
    query = select(first).select_from(Team).join(kind, true()).join(first, true())
    return [tuple(row) for row in session.execute(query)]


def dispatch(session: Session, jobs: Iterable[UUID]) -> Sequence[Doorbell]:
    """Move queued jobs to dispatched, each with its next attempt number."""
    statement = (
        moved_to(State.DISPATCHED)
        .where(Job.id.in_(list(jobs)))
        .values(attempt=Job.attempt + 1, dispatched_at=func.now(), rung_at=func.now(), worker_id=None)
        .returning(Job.id, Job.attempt, Job.pool, Job.kind, Job.device, Job.last_event)
    )
    rows = session.execute(statement).all()
    append_events(session, [(r.id, r.last_event, {"state": State.DISPATCHED, "attempt": r.attempt}) for r in rows])
    return [Doorbell(row.id, row.attempt, row.pool, row.kind, row.device) for row in rows]


def unanswered(session: Session, pools: Iterable[str], after_seconds: float, limit: int) -> Sequence[Doorbell]:
    """Dispatched jobs that nobody claimed for so long; they count as rung now."""
    overdue = (
        select(Job.id)
        .where(Job.state == State.DISPATCHED, Job.pool.in_(list(pools)), Job.rung_at < from_now(-after_seconds))
        .order_by(Job.rung_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Job)
        .where(Job.id.in_(overdue), Job.state == State.DISPATCHED)
        .values(rung_at=func.now())
        .returning(Job.id, Job.attempt, Job.pool, Job.kind, Job.device)
    )
    return [Doorbell(*row) for row in session.execute(statement)]


def lock_expired(session: Session, limit: int) -> Sequence[Held]:
    """Running jobs whose lease has run out."""
    query = _locked().where(Job.state == State.RUNNING, Job.lease_until < func.now())
    return _held_rows(session, query.order_by(Job.lease_until).limit(limit))


# --- the worker's side ----------------------------------------------------------------------------------------


def claim(session: Session, worker: UUID, pairs: Sequence[Pair], lease_seconds: float) -> Sequence[Claimed]:
    """Take dispatched jobs, if their attempts are still the current ones: one compare-and-set for all of them."""
    statement = (
        moved_to(State.RUNNING)
        .where(tuple_(Job.id, Job.attempt).in_(pairs))
        .values(
            worker_id=worker,
            claimed_at=func.now(),
            started_at=func.now(),
            lease_until=from_now(lease_seconds),
            progress=None,
        )
        .returning(Job.id, Job.attempt, Job.team_id, Job.kind, Job.spec, Job.last_event)
    )
    rows = session.execute(statement).all()
    if rows:
        session.execute(insert(Attempt), [{"job_id": r.id, "number": r.attempt, "worker_id": worker} for r in rows])
    append_events(session, [(r.id, r.last_event, {"state": State.RUNNING, "attempt": r.attempt}) for r in rows])
    return [Claimed(row.id, row.attempt, row.team_id, row.kind, row.spec) for row in rows]


def renew(session: Session, worker: UUID, pairs: Sequence[Pair], lease_seconds: float) -> Sequence[Renewed]:
    """Renew the leases that the worker still holds; a pair that does not come back is no longer its own."""
    statement = (
        update(Job)
        .where(tuple_(Job.id, Job.attempt).in_(pairs), Job.worker_id == worker, Job.state == State.RUNNING)
        .values(lease_until=from_now(lease_seconds))
        .returning(Job.id, Job.attempt, Job.cancel_requested_at.is_not(None))
    )
    return [Renewed(*row) for row in session.execute(statement)]


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


def lock_held(session: Session, worker: UUID, pair: Pair) -> Held | None:
    """The running job that this worker holds in this attempt, locked; None where it holds it no longer."""
    query = _locked(skip=False).where(
        Job.id == pair[0], Job.attempt == pair[1], Job.worker_id == worker, Job.state == State.RUNNING
    )
    rows = _held_rows(session, query)
    return rows[0] if rows else None


def end_attempt(
    session: Session,
    job: Held,
    *,
    outcome: Outcome,
    target: State,
    values: Mapping[str, Any],
    error: Mapping[str, Any] | None,
) -> None:
    """Close the attempt of a locked job and move the job on."""
    spent = func.extract("epoch", func.now() - Attempt.started_at) if job.device is Device.GPU else 0
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job.job, Attempt.number == job.attempt)
        .values(ended_at=func.now(), outcome=outcome, error=error, gpu_seconds=spent)
    )
    session.execute(moved_to(target, State.RUNNING).where(Job.id == job.job).values(lease_until=None, **values))
    data = {"state": target, "attempt": job.attempt, "outcome": outcome, "error": error}
    append_events(session, [(job.job, job.last_event + 1, data)])


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
    )
    return query.with_for_update(skip_locked=skip)


def _held_rows(session: Session, query: Select[*tuple[Any, ...]]) -> Sequence[Held]:
    return [Held(*row) for row in session.execute(query)]


def _alive(fresh_seconds: float) -> Any:
    return and_(Worker.ended_at.is_(None), ~Worker.draining, Worker.heartbeat_at > from_now(-fresh_seconds))
