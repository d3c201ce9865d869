"""The worker's side of the queue: claiming, renewing and ending attempts, each for many jobs in one statement.

Every statement carries the attempt's number, which is the fencing token: who was given up changes nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    Double,
    Integer,
    Select,
    Text,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    func,
    insert,
    literal,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, aliased

from db.clock import from_now, seconds
from db.events import told
from db.jobs import append_events, is_in, moved_to
from db.models import Attempt, Job, Outcome, Worker
from db.queue import Pair
from db.recordset import recordset, to_rows
from db.session import to_json
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State, sources


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
    alone: bool  # it was dispatched on probation


@dataclass(frozen=True)
class Company:
    """What there was beside a job that its worker was lost with."""

    on_probation: bool  # the job itself was
    beside_probation: bool  # another one was


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
    """Take dispatched jobs, if their attempts are still the current ones: one compare-and-set for all of them.

    A worker that is draining gets none.
    """
    given = {"rows": _pairs(pairs), "by_worker": worker, "lease": lease_seconds}
    rows = session.connection().execute(_CLAIM, given).all()
    return [Claimed(row.id, row.attempt, row.team_id, row.kind, row.spec, row.max_runtime_seconds) for row in rows]


def note_starts(session: Session, worker: UUID, spent: Mapping[Pair, float]) -> None:
    """Store when handlers began, each so many seconds ago, where that is not known yet."""
    rows = to_rows({"job": job, "attempt": attempt, "spent": past} for (job, attempt), past in spent.items())
    session.connection().execute(_NOTE_STARTS, {"rows": rows, "by_worker": worker})


def renew(session: Session, worker: UUID, pairs: Sequence[Pair], lease_seconds: float) -> Sequence[Renewed]:
    """Renew the leases that the worker still holds; a pair that does not come back is no longer its own."""
    jobs = lock_held(session, worker, pairs)  # in its order, or a renewal and a batch of endings could deadlock
    renewed = update(Job).where(Job.id.in_([job.job for job in jobs])).values(lease_until=from_now(lease_seconds))
    session.execute(renewed)
    return [Renewed(job.job, job.attempt, job.cancel_requested) for job in jobs]


def record_progress(session: Session, worker: UUID, pair: Pair, progress: Mapping[str, Any]) -> None:
    """Store how far an attempt is, unless the attempt is no longer the worker's."""
    _tell(session, worker, pair, "progress", progress, progress=dict(progress))


def record_metrics(session: Session, worker: UUID, pair: Pair, metrics: Mapping[str, Any]) -> None:
    """Store what an attempt measured, as an event, unless the attempt is no longer the worker's."""
    _tell(session, worker, pair, "metrics", metrics)


def _tell(session: Session, worker: UUID, pair: Pair, type: str, data: Mapping[str, Any], **columns: Any) -> None:
    statement = (
        update(Job)
        .where(Job.id == pair[0], Job.attempt == pair[1], Job.worker_id == worker, Job.state == State.RUNNING)
        .values(last_event=Job.last_event + 1, **columns)
        .returning(Job.id, Job.last_event)
    )
    rows = session.execute(statement).all()
    append_events(session, [(row.id, row.last_event, dict(data)) for row in rows], type=type)


def lock_held(session: Session, worker: UUID, pairs: Sequence[Pair]) -> Sequence[Held]:
    """Those of these attempts that the worker still holds, locked."""
    given = {"rows": _pairs(pairs), "by_worker": worker}
    return [Held(*row) for row in session.connection().execute(_LOCK_HELD, given).all()]


def end_attempts(session: Session, closings: Sequence[Closing]) -> None:
    """Close the attempts of locked jobs and move the jobs on: one statement for each state that they move to."""
    for target in {closing.target for closing in closings}:
        rows = [_closing_row(closing) for closing in closings if closing.target is target]
        session.connection().execute(_END[target], {"rows": to_json(rows)})


def _closing_row(closing: Closing) -> dict[str, Any]:
    return {
        "job": str(closing.held.job),
        "attempt": closing.held.attempt,
        "outcome": closing.outcome,
        "result": closing.result,
        "error": closing.error,
        "failures": closing.failures,
        "delay": closing.delay,
        "spent": closing.spent,
        "alone": closing.alone,
    }


def note_given_up(session: Session, worker: UUID, pairs: Sequence[Pair]) -> None:
    """Have what these attempts left in the store looked for again, where that was done before their worker heard."""
    if pairs:
        mine = (tuple_(Attempt.job_id, Attempt.number).in_(pairs), Attempt.worker_id == worker)
        session.execute(update(Attempt).where(*mine, Attempt.swept).values(swept=False))


def expired(session: Session, limit: int, but: Collection[UUID] = ()) -> Sequence[UUID]:
    """Running jobs whose lease has run out, without some; the oldest first."""
    return session.connection().execute(_EXPIRED, {"most": limit, "but": list(but)}).scalars().all()


def lock_expired(session: Session, limit: int, among: Collection[UUID] | None = None) -> Sequence[Held]:
    """Running jobs whose lease has run out; of those in `among`, where that is given."""
    query = _locked(skip=True).where(*_RAN_OUT, true() if among is None else Job.id.in_(list(among)))
    return [Held(*row) for row in session.execute(query.order_by(Job.lease_until).limit(limit))]


def company(session: Session, jobs: Collection[UUID], probation_seconds: float) -> Mapping[UUID, Company]:
    """Of those of these running jobs whose workers hold others, or have lost others since these were claimed.

    Where a worker dies, any of what it held may be why: what runs, what waits for its turn, and what has ended and was
    not recorded yet. One is on probation that was dispatched so, and was claimed no longer before its lease ran out.
    """
    others = (_OTHER.state == State.RUNNING, _OTHER.worker_id == Job.worker_id, _OTHER.id != Job.id)
    holds = select(_OTHER.id).where(*others)
    has_lost = select(Attempt.job_id).where(
        Attempt.outcome == Outcome.LOST,
        Attempt.worker_id == Job.worker_id,
        Attempt.job_id != Job.id,
        Attempt.ended_at > Job.claimed_at,
    )

    def on_probation(job: type[Job]) -> ColumnElement[bool]:
        return and_(job.alone, job.claimed_at > job.lease_until - seconds(probation_seconds))

    query = (
        select(Job.id, on_probation(Job), holds.where(on_probation(_OTHER)).exists())
        .where(Job.id.in_(list(jobs)), Job.state == State.RUNNING)
        .where(holds.exists() | has_lost.exists())
    )
    return {job: Company(itself, beside) for job, itself, beside in session.execute(query)}


def _pairs(pairs: Sequence[Pair]) -> str:
    return to_rows({"job": job, "attempt": attempt} for job, attempt in pairs)


# --- the statements, built once -------------------------------------------------------------------------------

_RAN_OUT = (Job.state == State.RUNNING, Job.lease_until < func.now())
_EXPIRED = (
    select(Job.id)
    .where(*_RAN_OUT, Job.id.not_in(bindparam("but", type_=Uuid, expanding=True)))
    .order_by(Job.lease_until)
    .limit(bindparam("most", type_=Integer))
)
_OTHER = aliased(Job)
_WORKER = bindparam("by_worker", type_=Uuid)
_PAIR: Sequence[ColumnElement[Any]] = (column("job", Uuid), column("attempt", Integer))
_CLOSING: Sequence[ColumnElement[Any]] = (
    *_PAIR,
    column("outcome", Text),
    column("result", JSONB),
    column("error", JSONB),
    column("failures", Integer),
    column("delay", Double),
    column("spent", Double),
    column("alone", Boolean),
)


def _locked(*, skip: bool) -> Select[*tuple[Any, ...]]:
    query = select(
        Job.id,
        Job.attempt,
        Job.team_id,
        Job.device,
        Job.failures,
        Job.max_attempts,
        Job.cancel_requested_at.is_not(None),
        Job.last_event,
        Job.alone,
    )
    return query.with_for_update(skip_locked=skip, of=Job)


def _lock_held() -> Select[*tuple[Any, ...]]:
    asked = recordset(_PAIR)
    of_worker = (Job.id == asked.c.job, Job.attempt == asked.c.attempt, Job.worker_id == _WORKER, is_in(State.RUNNING))
    return _locked(skip=False).where(*of_worker).order_by(Job.id)  # in one order: two of them never wait for each other


def _note_starts() -> Update:
    began = recordset((*_PAIR, column("spent", Double)))
    return (
        update(Job)
        .where(Job.id == began.c.job, Job.attempt == began.c.attempt, Job.worker_id == _WORKER)
        .where(is_in(State.RUNNING), Job.started_at.is_(None))
        .values(started_at=func.now() - seconds(began.c.spent))
        .execution_options(synchronize_session=False)
    )


def _claim() -> Select[Any]:
    rung = recordset(_PAIR)
    moved = (
        moved_to(State.RUNNING)
        .where(Job.id == rung.c.job, Job.attempt == rung.c.attempt)
        .where(~select(Worker.draining).where(Worker.id == _WORKER).scalar_subquery())
        .values(
            worker_id=_WORKER,
            claimed_at=func.now(),
            started_at=case((Job.bundle.is_(None), func.now())),  # a bundle's members begin one after the other
            lease_until=func.now() + seconds(bindparam("lease", type_=Double)),
            progress=None,
        )
        .returning(Job.id, Job.attempt, Job.team_id, Job.kind, Job.spec, Job.max_runtime_seconds, Job.last_event)
        .cte("moved")
    )
    begun = select(moved.c.id, moved.c.attempt, _WORKER)
    columns = ["job_id", "number", "worker_id"]
    attempts = insert(Attempt).from_select(columns, begun, include_defaults=False).cte("begun")
    events = told(moved, {"state": literal(State.RUNNING.value), "attempt": moved.c.attempt})
    return select(moved).add_cte(attempts, events)


def _end(target: State) -> Select[Any]:
    new = recordset(_CLOSING)
    values: dict[str, Any] = {
        "lease_until": None,
        "bundle": None,
        "failures": new.c.failures,
        "result": new.c.result,
        "error": new.c.error if target is State.SUCCEEDED else func.coalesce(new.c.error, Job.error),
        "started_at": func.coalesce(Job.started_at, func.now() - seconds(new.c.spent)),
    }
    if target is State.QUEUED:
        values |= {"available_at": func.now() + seconds(new.c.delay), "worker_id": None, "progress": None}
        values |= {"started_at": None, "alone": new.c.alone, "rung_at": case((new.c.delay > 0, func.now()))}
    else:
        values["finished_at"] = func.now()
    told_of = (new.c.outcome, new.c.error.label("reason"), new.c.spent)
    moved = (
        moved_to(target, State.RUNNING)
        .where(Job.id == new.c.job, Job.attempt == new.c.attempt)
        .values(values)
        .returning(Job.id, Job.attempt, Job.last_event, Job.device, *told_of)
        .cte("moved")
    )
    data = {"state": literal(target.value), "attempt": moved.c.attempt, "outcome": moved.c.outcome}
    events = told(moved, {**data, "error": moved.c.reason})
    return select(func.count()).select_from(moved).add_cte(_ended_attempts(moved), events)


def _ended_attempts(moved: CTE) -> CTE:
    """The part of the statement that closes the attempts of the jobs that it moves."""
    whole = func.extract("epoch", func.now() - Attempt.started_at)
    return (
        update(Attempt)
        .where(Attempt.job_id == moved.c.id, Attempt.number == moved.c.attempt)
        .values(
            ended_at=func.now(),
            outcome=moved.c.outcome,
            error=moved.c.reason,
            gpu_seconds=case((moved.c.device == Device.GPU, func.coalesce(moved.c.spent, whole)), else_=0),
        )
        .cte("ended")
    )


_LOCK_HELD = _lock_held()
_NOTE_STARTS = _note_starts()
_CLAIM = _claim()
_END = {target: _end(target) for target in State if State.RUNNING in sources(target)}
