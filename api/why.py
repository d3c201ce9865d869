"""/v1/jobs/{job}/why: why a job is where it is, and what to do about it."""

from uuid import UUID

from fastapi import APIRouter
from sqlalchemy.orm import Session

from api.desk import AtDesk
from api.views import job_view
from control.accounts import Caller
from control.why import facts_of
from db.models import Job
from db.owned import owned_row
from vlyard.jobs.why import Why, explain

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("/{job}/why", summary="Why a job is where it is")
async def show_why(job: UUID, desk: AtDesk) -> Why:
    """What a job waits for, its place in the line, its last error, and what you can do about it."""
    fresh_seconds = desk.house.settings.lease_seconds

    def look(session: Session, caller: Caller) -> Why:
        row = owned_row(session, Job, caller.team, job)
        return explain(facts_of(session, row, job_view(session, row), fresh_seconds))

    return await desk.run(look)
