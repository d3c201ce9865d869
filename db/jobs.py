"""Jobs as their owners see them: storing, reading, listing, cancelling."""

from collections.abc import Iterable, Sequence
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
    job.last_event = 1
    session.add(job)
    session.flush()
    append_events(session, [(job.id, 1, {"state": job.state})])


def append_events(session: Session, events: Iterable[tuple[UUID, int, dict[str, Any]]], type: str = "state") -> None:
    """Add events, each a (job, sequence number, data), in one statement."""
    rows = [{"job_id": job, "seq": seq, "type": type, "data": data} for job, seq, data in events]
    if rows:
        session.execute(insert(JobEvent), rows)


def page(
    session: Session, team: UUID, *, state: State | None, kind: str | None, before: UUID | None, limit: int
) -> Sequence[Job]:
    """The team's newest jobs, older than `before`."""
    query = owned(Job, team)
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind)
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
