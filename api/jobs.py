"""/v1/jobs: submit, one or many, look, list."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response
from sqlalchemy.orm import Session

from api import job_operations
from api.cursors import Cursor, Limit, place_of
from api.desk import AtDesk, Desk, IdempotencyKey, Wait
from api.examples import BATCHES, SUBMISSIONS
from api.views import job_row_view, job_view, submitted_view
from control import submit
from control.accounts import Caller
from control.wakeup import Channel
from db import jobs
from db.models import Job
from db.owned import owned_row
from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs import view
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.state import TERMINAL, State

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
router.include_router(job_operations.router)


@router.post("", status_code=202, summary="Submit a job")
async def submit_job(
    submission: Annotated[view.Submission, Body(openapi_examples=SUBMISSIONS)],
    desk: AtDesk,
    wait: Wait,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> view.Job:
    """Accept a job. With a wait, the answer comes when the job has ended or the time is over."""
    job = submitted_view(await desk.submit(submission, idempotency_key))
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return await _after(desk, job, wait)


@router.post(":batch", status_code=202, summary="Submit many jobs, all or none")
async def submit_batch(
    batch: Annotated[view.Batch, Body(openapi_examples=BATCHES)], desk: AtDesk, idempotency_key: IdempotencyKey = None
) -> view.Accepted:
    """Accept up to 1,000 jobs, which may wait for each other's outputs; the answer has them in the same order."""

    def accept(session: Session, caller: Caller) -> view.Accepted:
        rows = submit.submit_batch(session, caller, batch, idempotency_key)
        return view.Accepted(data=tuple(map(submitted_view, rows)))

    return await desk.run_and_wake(accept, Channel.WORK)


@router.get("/{job}", summary="Look at a job")
async def show_job(job: UUID, desk: AtDesk, wait: Wait) -> view.Job:
    """A job and its attempts. With a wait, the answer comes when the job has ended or the time is over."""
    return await _after(desk, await desk.run(_look(job)), wait)


@router.get("", summary="List jobs, newest first")
async def list_jobs(
    desk: AtDesk,
    *,
    state: State | None = None,
    kind: Annotated[str | None, Query(pattern=f"^({'|'.join(KINDS)})$", description="Of this kind only.")] = None,
    pool: Annotated[str | None, Query(pattern=view.POOL_PATTERN, description="Of this pool only.")] = None,
    label: Annotated[
        list[str] | None, Query(description="`key:value`; with several, only jobs that have all of them.")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> view.Page:
    """Your team's jobs."""
    before, labels = place_of(cursor), _labels(label or [])

    def read(session: Session, caller: Caller) -> view.Page:
        rows = jobs.page(
            session, caller.team, state=state, kind=kind, before=before, limit=limit + 1, pool=pool, labels=labels
        )
        more = str(rows[limit - 1].id) if len(rows) > limit else None
        return view.Page(data=tuple(map(job_row_view, rows[:limit])), next_cursor=more)

    return await desk.run(read)


def _look(job: UUID) -> Any:
    def look(session: Session, caller: Caller) -> view.Job:
        return job_view(session, owned_row(session, Job, caller.team, job))

    return look


async def _after(desk: Desk, job: view.Job, wait: float) -> view.Job:
    """The job as it is once it has ended, or after so many seconds."""
    if wait <= 0 or job.state in TERMINAL:
        return job
    await desk.ended(job.id, wait)
    looked: view.Job = await desk.run(_look(job.id))
    return looked


def _labels(texts: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        key, colon, value = text.partition(":")
        if not key or not colon or "\0" in text:
            raise InvalidInput(complaints=[Complaint("/query/label", f"{text!r} is no label", "write it as key:value")])
        if labels.setdefault(key, value) != value:
            raise InvalidInput(
                complaints=[Complaint("/query/label", f"no job has two values of {key!r}", "ask for one")]
            )
    return labels
