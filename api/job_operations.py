"""/v1/jobs/{job}/...: cancel, retry, clone, another priority."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Response
from sqlalchemy.orm import Session

from api.desk import AtDesk, IdempotencyKey
from api.views import job_view, submitted_view
from control import operations
from control.accounts import Caller
from control.wakeup import Channel
from vlyard.jobs import view

router = APIRouter()


@router.post("/{job}/cancel", status_code=202, summary="Cancel a job")
async def cancel_job(job: UUID, desk: AtDesk, idempotency_key: IdempotencyKey = None) -> view.Job:
    """Cancel a job: at once while it waits; a running one as soon as its worker has stopped it."""

    def cancel(session: Session, caller: Caller) -> view.Job:
        return job_view(session, operations.cancel(session, caller, job, idempotency_key))

    return await desk.run_and_wake(cancel, Channel.WORK, Channel.ENDED)


@router.post("/{job}/retry", status_code=202, summary="Do an ended job again")
async def retry_job(job: UUID, desk: AtDesk, response: Response, idempotency_key: IdempotencyKey = None) -> view.Job:
    """Submit a new job with the same specification, pool, priority and labels; 409 while the job has not ended."""

    def retry(session: Session, caller: Caller) -> view.Job:
        return submitted_view(operations.retry(session, caller, job, idempotency_key))

    made = await desk.run_and_wake(retry, Channel.WORK)
    response.headers["Location"] = f"/v1/jobs/{made.id}"
    return made


@router.post("/{job}/clone", status_code=202, summary="Do a job again, with changes")
async def clone_job(
    job: UUID,
    desk: AtDesk,
    response: Response,
    changes: Annotated[view.Changes, Body()] = view.Changes(),
    idempotency_key: IdempotencyKey = None,
) -> view.Job:
    """Submit a new job that differs from another one, whatever its state, in what the body names."""

    def clone(session: Session, caller: Caller) -> view.Job:
        return submitted_view(operations.clone(session, caller, job, changes, idempotency_key))

    made = await desk.run_and_wake(clone, Channel.WORK)
    response.headers["Location"] = f"/v1/jobs/{made.id}"
    return made


@router.post("/{job}/priority", summary="Give a waiting job another priority")
async def reprioritise_job(
    job: UUID, new: view.NewPriority, desk: AtDesk, idempotency_key: IdempotencyKey = None
) -> view.Job:
    """Change a job's place among your team's jobs while it is blocked or queued; 409 afterwards."""

    def reprioritise(session: Session, caller: Caller) -> view.Job:
        return job_view(session, operations.reprioritise(session, caller, job, new.priority, idempotency_key))

    return await desk.run_and_wake(reprioritise, Channel.WORK, Channel.EVENTS)
