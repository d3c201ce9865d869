"""What an owner does with jobs: cancelling them, repeating them as they were or changed, moving them in the queue."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control import lifecycle
from control.accounts import Caller
from control.dependencies import Wanted
from control.submit import Submitted, accept
from db import idempotency
from db.jobs import append_events
from db.models import Job
from db.owned import owned_row
from vlyard.errors import Conflict
from vlyard.jobs.changing import changed
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Changes, Submission


@dataclass(frozen=True)
class _Request:
    """What is asked of a job, so that its tries are known to be the same."""

    what: str
    job: UUID
    key: str | None
    body: Mapping[str, Any] = field(default_factory=dict)


def retry(session: Session, caller: Caller, job: UUID, key: str | None) -> Submitted:
    """A new job that does what an ended one should have done; raises `Conflict` while that one has not ended."""
    source = owned_row(session, Job, caller.team, job)
    if source.state not in TERMINAL:
        raise Conflict(f"the job has not ended yet: it is {source.state}")
    return _repeat(session, caller, source, Changes(), _Request("retry", job, key))


def clone(session: Session, caller: Caller, job: UUID, changes: Changes, key: str | None) -> Submitted:
    """A new job that does what another one does, or did, with changes."""
    request = _Request("clone", job, key, changes.model_dump(mode="json"))
    return _repeat(session, caller, owned_row(session, Job, caller.team, job), changes, request)


def cancel(session: Session, caller: Caller, job: UUID, key: str | None) -> Job:
    """Cancel a job as `lifecycle.cancel` does; a request that was carried out already changes nothing more."""
    if _done_before(session, caller, _Request("cancel", job, key)):
        return owned_row(session, Job, caller.team, job)
    return lifecycle.cancel(session, caller.team, job)


def reprioritise(session: Session, caller: Caller, job: UUID, priority: int, key: str | None) -> Job:
    """Give a job that waits another priority; raises `Conflict` once it has left the queue."""
    if _done_before(session, caller, _Request("priority", job, key, {"priority": priority})):
        return owned_row(session, Job, caller.team, job)
    row = owned_row(session, Job, caller.team, job, lock=True)
    if row.state not in {State.BLOCKED, State.QUEUED}:
        raise Conflict(f"the job does not wait in the queue any more: it is {row.state}")
    row.priority = priority
    row.last_event += 1
    session.flush()
    append_events(session, [(job, row.last_event, {"priority": priority})], type="priority")
    return row


def _repeat(session: Session, caller: Caller, source: Job, changes: Changes, request: _Request) -> Submitted:
    new = uuid7()
    made = _remember(session, caller, request, new)
    if made != new:
        return owned_row(session, Job, caller.team, made)
    [job] = accept(session, caller, [Wanted(new, _changed(source, changes), "", cloned_from=source.id)])
    return job


def _changed(source: Job, changes: Changes) -> Submission:
    return Submission(
        spec=changed(source.spec, changes.spec),
        pool=source.pool if changes.pool is None else changes.pool,
        priority=source.priority if changes.priority is None else changes.priority,
        labels=source.labels if changes.labels is None else changes.labels,
        max_runtime=source.max_runtime_seconds,
    )


def _done_before(session: Session, caller: Caller, request: _Request) -> bool:
    """Whether an earlier try of the same request was carried out."""
    mark = uuid7()  # such a request makes nothing, so this says which try was the first
    return _remember(session, caller, request, mark) != mark


def _remember(session: Session, caller: Caller, request: _Request, made: UUID) -> UUID:
    """What the first try of the request made; `made` where this is the first, or where tries are not told apart."""
    if request.key is None:
        return made
    facts = {"what": request.what, "job": str(request.job), "body": request.body}
    digest = hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return idempotency.remember(session, caller.team, request.key, digest, made)
