"""Jobs as their owners see them: storing, reading, listing, cancelling."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Insert,
    Integer,
    Select,
    Text,
    Update,
    Uuid,
    bindparam,
    cast,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from db.models import Attempt, Job, JobEvent, Pool, Worker
from db.owned import owned
from db.recordset import recordset, to_rows
from db.session import to_json
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import TERMINAL, State, sources


class NewJob(NamedTuple):
    """A job at its birth. What its row has besides is the same for all: the table's defaults."""

    id: UUID
    team_id: UUID
    kind: str
    pool: str
    device: Device
    priority: int
    spec: Mapping[str, Any]
    state: State
    max_attempts: int
    labels: Mapping[str, str]
    expires_at: datetime | None
    max_runtime_seconds: float | None
    part_of: UUID | None
    cloned_from: UUID | None
    created_at: datetime  # when the transaction that stores it began


def moved_to(target: State, *states: State) -> Update:
    """An UPDATE of the jobs that may move to `target` (of those, the ones in `states`), one event each."""
    allowed = [state for state in sources(target) if not states or state in states]
    return update(Job).where(is_in(*allowed)).values(state=target, last_event=Job.last_event + 1)


def is_in(*states: State) -> ColumnElement[bool]:
    """Whether a job that is named by its id is in one of these states.

    Not a plain comparison: with old statistics the planner takes the partial index of that state for the shorter way,
    and reads the whole queue to find 32 jobs. And no IN, whose list SQLAlchemy writes anew at each execution.
    """
    state = cast(Job.state, Text).concat("")
    return or_(*(state == each.value for each in states))


def insert_jobs(session: Session, jobs: Iterable[NewJob]) -> None:
    """Store new jobs and their first events, however many they are, in one statement."""
    rows = [job._asdict() for job in jobs]
    if rows:
        session.connection().execute(_STORE, {"rows": to_rows(rows)})


def _store() -> Select[Any]:
    """The INSERTs of jobs and of their first events."""
    jobs, events = (table.metadata.tables[table.__tablename__] for table in (Job, JobEvent))
    new = recordset([jobs.c[name] for name in NewJob._fields])
    job = [*NewJob._fields, "last_event"], select(*new.c, literal(1))
    told = func.jsonb_build_object("state", new.c.state)
    event = ["job_id", "seq", "type", "data"], select(new.c.id, literal(1), literal("state"), told)
    return select(func.now()).add_cte(
        insert(jobs).from_select(*job, include_defaults=False).cte("jobs_stored"),
        insert(events).from_select(*event, include_defaults=False).cte("events_stored"),
    )


_STORE = _store()


def in_order(session: Session, team: UUID, jobs: Sequence[UUID]) -> Sequence[Job]:
    """The team's jobs with these ids, in the order of the ids."""
    found = {job.id: job for job in session.scalars(owned(Job, team).where(Job.id.in_(list(jobs))))}
    return [found[job] for job in jobs]


_WAITING = (State.BLOCKED, State.QUEUED, State.DISPATCHED)
_EXPIRED = (Job.state.in_(_WAITING), Job.expires_at < func.now())


def append_events(session: Session, events: Iterable[tuple[UUID, int, dict[str, Any]]], type: str = "state") -> None:
    """Add events, each a (job, sequence number, data), in one statement."""
    rows = [{"job_id": str(job), "seq": seq, "type": type, "data": data} for job, seq, data in events]
    if rows:
        session.connection().execute(_APPEND, {"rows": to_json(rows)})


def _append() -> Insert:
    events, names = JobEvent.metadata.tables[JobEvent.__tablename__], ["job_id", "seq", "type", "data"]
    new = recordset([events.c[name] for name in names])
    return insert(events).from_select(names, select(*new.c), include_defaults=False)


_APPEND = _append()


_CIRCUMSTANCES = select(
    func.now(),
    func.array(select(Pool.name).where(Pool.name == func.any(bindparam("names", type_=ARRAY(Text)))).scalar_subquery()),
)


def circumstances(session: Session, pools: Collection[str]) -> tuple[datetime, Collection[str]]:
    """When the transaction began, and which of these pools there are."""
    now, found = session.connection().execute(_CIRCUMSTANCES, {"names": list(pools)}).one()
    return now, found


def page(
    session: Session,
    team: UUID,
    *,
    state: State | None,
    kind: str | None,
    before: UUID | None,
    limit: int,
    pool: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Sequence[Job]:
    """The team's newest jobs, older than `before`; with labels, those that have all of them."""
    query = owned(Job, team)
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if pool is not None:
        query = query.where(Job.pool == pool)
    if labels:
        query = query.where(Job.labels.contains(dict(labels)), Job.labels != literal_column("'{}'::jsonb"))
    if before is not None:
        query = query.where(Job.id < before)
    return session.scalars(query.order_by(Job.id.desc()).limit(limit)).all()


def attempts(session: Session, job: UUID) -> Sequence[tuple[Attempt, str]]:
    """Every attempt at a job with the name of its worker, in order."""
    query = select(Attempt, Worker.name).join(Worker, Worker.id == Attempt.worker_id).where(Attempt.job_id == job)
    return [(attempt, name) for attempt, name in session.execute(query.order_by(Attempt.number))]


def ended(session: Session, jobs: Iterable[UUID]) -> set[UUID]:
    """Which of these jobs have ended."""
    return set(session.scalars(select(Job.id).where(Job.id.in_(list(jobs)), Job.state.in_(TERMINAL))))


def cancel_waiting(session: Session, team: UUID, job: UUID) -> bool:
    """Cancel a job that no worker holds yet; false where it is not in such a state."""
    statement = (
        moved_to(State.CANCELLED, *_WAITING)
        .where(Job.id == job, Job.team_id == team)
        .values(cancel_requested_at=func.now(), finished_at=func.now())
        .returning(Job.id, Job.last_event)
    )
    return _record(session, statement, {"state": State.CANCELLED})


def lock_shares(session: Session, jobs: Iterable[UUID]) -> Sequence[tuple[UUID, UUID]]:
    """The (job, team) of what does a share of these jobs, has not ended, and was not told to stop.

    Without those that somebody else is moving just now: who ends a share looks at the job that waits for it, so that
    waiting for each other would be a circle.
    """
    at_work = (Job.state.not_in(TERMINAL), Job.cancel_requested_at.is_(None))
    query = select(Job.id, Job.team_id).where(Job.part_of.in_(list(jobs)), *at_work).order_by(Job.id)
    return [(row.id, row.team_id) for row in session.execute(query.with_for_update(skip_locked=True))]


def orphans(session: Session, limit: int, but: Collection[UUID] = ()) -> Sequence[UUID]:
    """Jobs that ended without success and of which a share is with a worker, and was not told to stop.

    Somebody held it just then. One that still waits in the queue comes there, too.
    """
    return session.connection().execute(_ORPHANS, {"most": limit, "but": list(but)}).scalars().all()


_SHARE = aliased(Job)
_MOST, _BUT = bindparam("most", type_=Integer), bindparam("but", type_=Uuid, expanding=True)
_ORPHANS = (
    select(Job.id)
    .join(_SHARE, _SHARE.part_of == Job.id)
    .where(_SHARE.state.in_([State.DISPATCHED, State.RUNNING]), _SHARE.cancel_requested_at.is_(None))
    .where(Job.state.in_([State.FAILED, State.CANCELLED]), Job.id.not_in(_BUT))
    .distinct()
    .limit(_MOST)
)


def expired(session: Session, limit: int, but: Collection[UUID] = ()) -> Sequence[UUID]:
    """The jobs that were not started before they expired, without some; the oldest first."""
    return session.connection().execute(_TOO_LATE, {"most": limit, "but": list(but)}).scalars().all()


_TOO_LATE = select(Job.id).where(*_EXPIRED, Job.id.not_in(_BUT)).order_by(Job.expires_at).limit(_MOST)


def expire_waiting(session: Session, error: Mapping[str, Any], among: Collection[UUID]) -> Sequence[tuple[UUID, UUID]]:
    """Fail those of these jobs that were not started before they expired; returns the (job, team) of each."""
    expired = select(Job.id).where(Job.id.in_(list(among)), *_EXPIRED).with_for_update(skip_locked=True)
    statement = (
        moved_to(State.FAILED, *_WAITING)
        .where(Job.id.in_(expired))
        .values(error=dict(error), finished_at=func.now())
        .returning(Job.id, Job.team_id, Job.last_event)
    )
    rows = session.execute(statement).all()
    append_events(session, [(row.id, row.last_event, {"state": State.FAILED, "error": dict(error)}) for row in rows])
    return [(row.id, row.team_id) for row in rows]


def request_cancel(session: Session, team: UUID, job: UUID) -> bool:
    """Ask the worker that holds a job to stop; false where none holds it."""
    statement = (
        update(Job)
        .where(Job.id == job, Job.team_id == team, Job.state == State.RUNNING)
        .values(cancel_requested_at=func.coalesce(Job.cancel_requested_at, func.now()), last_event=Job.last_event + 1)
        .returning(Job.id, Job.last_event)
    )
    return _record(session, statement, {"state": State.RUNNING, "cancel_requested": True})


def _record(session: Session, statement: Any, data: dict[str, Any]) -> bool:
    row = session.execute(statement).one_or_none()
    if row is None:
        return False
    append_events(session, [(row.id, row.last_event, data)])
    return True
