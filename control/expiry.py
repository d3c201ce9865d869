"""Jobs that nobody started in time."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy.orm import Session

from control.endings import Ended, follow_up
from control.failures import failure_of
from db import jobs
from vlyard.errors import Expired
from vlyard.jobs.state import State


def expire(session: Session, among: Collection[UUID]) -> int:
    """Fail those of these jobs that wait and whose `expires_at` has passed; returns how many."""
    expired = jobs.expire_waiting(session, failure_of(Expired()).model_dump(mode="json"), among)
    follow_up(session, [Ended(job, team, State.FAILED) for job, team in expired])
    return len(expired)
