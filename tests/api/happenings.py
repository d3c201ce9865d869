"""What a worker and a dispatcher would do to a job, as far as its events and its logs show it."""

from typing import Any
from uuid import UUID

from sqlalchemy import update

from db.jobs import append_events
from db.models import Job
from db.session import Database
from vlyard.jobs.state import State


def happen(database: Database, job: str, type: str = "progress", **data: Any) -> int:
    """Let something happen to a job; returns the event's number."""
    with database.transaction() as session:
        counted = update(Job).where(Job.id == UUID(job)).values(last_event=Job.last_event + 1)
        number = session.execute(counted.returning(Job.last_event)).scalar_one()
        append_events(session, [(UUID(job), number, data)], type)
    return number


def end(database: Database, job: str, state: State = State.SUCCEEDED) -> int:
    """Let a job end; returns the event's number."""
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == UUID(job)).values(state=state))
    return happen(database, job, "state", state=state)
