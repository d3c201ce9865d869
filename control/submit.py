"""Accepting a job: checked, made and stored in one transaction. Redis has no part in it."""

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control.accounts import Caller
from db import accounts, artefacts, idempotency, jobs
from db.models import Job
from db.owned import owned_row
from vlyard.errors import Complaint, Forbidden, InvalidInput
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.state import State
from vlyard.jobs.view import Submission
from vlyard.teams import Role


def submit(session: Session, caller: Caller, submission: Submission, idempotency_key: str | None) -> Job:
    """Store a job, or find the one that an earlier try of the same request stored."""
    kind = KINDS[submission.spec.kind]
    if kind.admin_only and caller.role is not Role.ADMIN:
        raise Forbidden(f"jobs of kind {kind.name} are for administrators")
    new = uuid7()
    if idempotency_key is not None:
        made = idempotency.remember(session, caller.team, idempotency_key, fingerprint(submission), new)
        if made != new:
            return owned_row(session, Job, caller.team, made)
    spec = submission.spec.model_dump(mode="json")
    _check_text(spec)
    if not accounts.pool_exists(session, submission.pool):
        raise InvalidInput(complaints=[Complaint("/pool", f"there is no pool {submission.pool!r}")])
    _check_inputs(session, caller.team, submission)
    job = Job(
        id=new,
        team_id=caller.team,
        kind=kind.name,
        pool=submission.pool,
        device=kind.device,
        priority=submission.priority,
        spec=spec,
        state=State.QUEUED,
        max_attempts=kind.max_attempts,
    )
    jobs.insert_job(session, job)
    session.refresh(job)
    return job


def fingerprint(submission: Submission) -> str:
    """What makes two requests the same one."""
    return hashlib.sha256(orjson.dumps(submission.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _check_text(spec: Mapping[str, Any]) -> None:
    complaints = [
        Complaint(f"/spec/{name}", "the text contains the character U+0000, which cannot be stored", "remove it")
        for name, value in spec.items()
        if _holds_nul(value)
    ]
    if complaints:
        raise InvalidInput(complaints=complaints)


def _holds_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_nul, (*value, *value.values())))
    if isinstance(value, list):
        return any(map(_holds_nul, value))
    return isinstance(value, str) and "\0" in value


def _check_inputs(session: Session, team: UUID, submission: Submission) -> None:
    named = submission.spec.inputs()
    found = {artefact.id for artefact in artefacts.ready(session, team, named)}
    missing = [identity for identity in named if identity not in found]
    if missing:
        complaints = [
            Complaint(
                f"/spec/{_field_of(submission, identity)}",
                f"there is no artefact {identity} that is ready",
                "upload it, complete the upload, then name its id here",
            )
            for identity in missing
        ]
        raise InvalidInput("the job names artefacts that it cannot read", complaints)


def _field_of(submission: Submission, artefact: UUID) -> str:
    return next((name for name, value in submission.spec if value == artefact), "")
