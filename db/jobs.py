"""Jobs as their owners see them: storing, reading, listing, cancelling."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Update, func, insert, select, update
from sqlalchemy.orm import Session

from db.models import Attempt, Job, JobEvent, Worker
from db.owned import owned
from vlyard.jobs.state import TERMINAL, State, sources


def moved_to(target: State, *states: State) -> Update:
    """An UPDATE of the jobs that may move to `target` (of those, the ones in `states`), one event each."""
    allowed = [state for state in sources(target) if not states or state in states]
    return update(Job).where(Job.state.in_(allowed)).values(state=target, last_event=Job.last_event + 1)


def insert_job(session: Session, job: Job) -> None:
    """Store a new job and its first event."""
    insert_jobs(session, [job])


def insert_jobs(session: Session, jobs: Sequence[Job]) -> None:
    """Store new jobs and their first events, in one statement for each table; what the database adds is filled in."""
    for job in jobs:
        job.last_event = 1
    if len(jobs) > 1:
        # Asking a thousand rows back for what the database fills in takes four times as long as storing them.
        moment = now(session)
        for job in jobs:
            job.attempt, job.failures, job.alone = 0, 0, False
            job.created_at = job.available_at = moment
    session.add_all(jobs)
    session.flush()
    append_events(session, [(job.id, 1, {"state": job.state}) for job in jobs])


def in_order(session: Session, team: UUID, jobs: Sequence[UUID]) -> Sequence[Job]:
    """The team's jobs with these ids, in the order of the ids."""
    found = {job.id: job for job in session.scalars(owned(Job, team).where(Job.id.in_(list(jobs))))}
    return [found[job] for job in jobs]


def append_events(session: Session, events: Iterable[tuple[UUID, int, dict[str, Any]]], type: str = "state") -> None:
    """Add events, each a (job, sequence number, data), in one statement."""
    rows = [{"job_id": job, "seq": seq, "type": type, "data": data} for job, seq, data in events]
    if rows:
        session.execute(insert(JobEvent), rows)


def now(session: Session) -> datetime:
    """When the transaction began."""
    return session.scalars(select(func.now())).one()


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
        query = query.where(Job.labels.contains(dict(labels)))
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
        moved_to(State.CANCELLED, State.BLOCKED, State.QUEUED, State.DISPATCHED)
        .where(Job.id == job, Job.team_id == team)
        .values(cancel_requested_at=func.now(), finished_at=func.now())
        .returning(Job.id, Job.last_event)
    )
    return _record(session, statement, {"state": State.CANCELLED})


def expire_waiting(session: Session, error: Mapping[str, Any], limit: int) -> Sequence[tuple[UUID, UUID]]:
    """Fail the jobs that were not started before they expired; returns the (job, team) of each."""
    waiting = (State.BLOCKED, State.QUEUED, State.DISPATCHED)
    expired = (
        select(Job.id)
        .where(Job.state.in_(waiting), Job.expires_at < func.now())
        .order_by(Job.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        moved_to(State.FAILED, *waiting)
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
