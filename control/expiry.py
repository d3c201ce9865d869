"""Jobs that nobody started in time."""

from sqlalchemy.orm import Session

from control.endings import Ended, follow_up
from control.failures import failure_of
from db import jobs
from vlyard.errors import Expired
from vlyard.jobs.state import State


def expire(session: Session, limit: int = 500) -> int:
    """Fail the waiting jobs whose `expires_at` has passed, `limit` at most; returns how many."""
    expired = jobs.expire_waiting(session, failure_of(Expired()).model_dump(mode="json"), limit)
    follow_up(session, [Ended(job, team, State.FAILED) for job, team in expired])
    return len(expired)
