"""Accepting jobs: checked, made and stored in one transaction. Redis has no part in it."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import orjson
from pydantic import BaseModel
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control import dependencies
from control.accounts import Caller
from control.dependencies import Plan, Wanted
from db import accounts, artefacts, idempotency, jobs
from db.dependencies import insert_needs
from db.models import Job
from db.owned import owned_row
from vlyard.errors import Complaint, Forbidden, InvalidInput
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.spec import Reference
from vlyard.jobs.view import Batch, Submission
from vlyard.teams import Role

_REFUSED = "the request is not valid"


def submit(session: Session, caller: Caller, submission: Submission, idempotency_key: str | None) -> Job:
    """Store a job, or find the one that an earlier try of the same request stored."""
    new = uuid7()
    if idempotency_key is not None:
        made = idempotency.remember(session, caller.team, idempotency_key, fingerprint(submission), new)
        if made != new:
            return owned_row(session, Job, caller.team, made)
    [job] = accept(session, caller, [Wanted(new, submission, "")])
    return job


def submit_batch(session: Session, caller: Caller, batch: Batch, idempotency_key: str | None) -> Sequence[Job]:
    """Store all jobs of a batch in their order, or find those that an earlier try of the same request stored."""
    first = uuid7()
    if idempotency_key is not None:
        made = idempotency.remember(session, caller.team, idempotency_key, fingerprint(batch), first)
        if made != first:
            return jobs.in_order(session, caller.team, _counted_from(made, len(batch.jobs)))
    ids = _counted_from(first, len(batch.jobs))
    wanted = [Wanted(id, entry, f"/jobs/{at}") for at, (id, entry) in enumerate(zip(ids, batch.jobs, strict=True))]
    return accept(session, caller, wanted, _names(batch, ids))


def fingerprint(request: BaseModel) -> str:
    """What makes two requests the same one."""
    return hashlib.sha256(orjson.dumps(request.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _counted_from(first: UUID, count: int) -> list[UUID]:
    """The ids of a batch's jobs: those that follow the first, so that the first is all that has to be remembered."""
    return [UUID(int=first.int + step) for step in range(count)]


def _names(batch: Batch, ids: Sequence[UUID]) -> dict[str, UUID]:
    names: dict[str, UUID] = {}
    complaints = []
    for at, (entry, id) in enumerate(zip(batch.jobs, ids, strict=True)):
        if entry.name is not None and names.setdefault(entry.name, id) != id:
            what = f"an earlier entry is called {entry.name!r} already"
            complaints.append(Complaint(f"/jobs/{at}/name", what, "give each entry a name of its own"))
    if complaints:
        raise InvalidInput(_REFUSED, complaints)
    return names


def accept(
    session: Session, caller: Caller, wanted: Sequence[Wanted], names: dict[str, UUID] | None = None
) -> Sequence[Job]:
    """Store wanted jobs, all or none, or raise `InvalidInput` with every fault; `names` are a batch's entries."""
    for each in wanted:
        if KINDS[each.submission.spec.kind].admin_only and caller.role is not Role.ADMIN:
            raise Forbidden(f"jobs of kind {each.submission.spec.kind} are for administrators")
    complaints = [
        *_unstorable(wanted),
        *_without_pool(session, wanted),
        *_unready(session, caller.team, wanted),
        *_too_long(wanted),
    ]
    plan = dependencies.plan(session, caller.team, wanted, names or {})
    if complaints or plan.complaints:
        raise InvalidInput(_REFUSED, [*complaints, *plan.complaints])
    now = jobs.now(session) if any(each.submission.expires_in for each in wanted) else None
    made = [_job(caller.team, each, plan, now) for each in wanted]
    jobs.insert_jobs(session, made)
    insert_needs(session, plan.rows())
    return made


def _job(team: UUID, wanted: Wanted, plan: Plan, now: datetime | None) -> Job:
    submission = wanted.submission
    kind = KINDS[submission.spec.kind]
    state, spec = plan.start(wanted.id, submission.spec.model_dump(mode="json"))
    return Job(
        id=wanted.id,
        team_id=team,
        kind=kind.name,
        pool=submission.pool,
        device=kind.device,
        priority=submission.priority,
        spec=spec,
        state=state,
        max_attempts=kind.max_attempts,
        labels=submission.labels,
        expires_at=submission.expires_at
        if now is None or submission.expires_in is None
        else now + timedelta(seconds=submission.expires_in),
        max_runtime_seconds=submission.max_runtime,
        cloned_from=wanted.cloned_from,
    )


# --- what is checked ------------------------------------------------------------------------------------------


def _unstorable(wanted: Sequence[Wanted]) -> Iterator[Complaint]:
    for each in wanted:
        for name, value in each.submission.spec.model_dump(mode="json").items():
            if _holds_nul(value):
                what = "the text contains the character U+0000, which cannot be stored"
                yield Complaint(f"{each.where}/spec/{name}", what, "remove it")


def _holds_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_nul, (*value, *value.values())))
    if isinstance(value, list):
        return any(map(_holds_nul, value))
    return isinstance(value, str) and "\0" in value


def _without_pool(session: Session, wanted: Sequence[Wanted]) -> Iterator[Complaint]:
    missing = {pool for pool in {each.submission.pool for each in wanted} if not accounts.pool_exists(session, pool)}
    for each in wanted:
        if each.submission.pool in missing:
            yield Complaint(f"{each.where}/pool", f"there is no pool {each.submission.pool!r}")


def _unready(session: Session, team: UUID, wanted: Sequence[Wanted]) -> Iterator[Complaint]:
    named = [(each, id) for each in wanted for id in each.submission.spec.inputs() if not isinstance(id, Reference)]
    if not named:
        return
    found = {artefact.id for artefact in artefacts.ready(session, team, {id for _, id in named})}
    for each, id in named:
        if id not in found:
            yield Complaint(
                f"{each.where}/spec/{_field_of(each.submission, id)}",
                f"there is no artefact {id} that is ready",
                "upload it, complete the upload, then name its id here",
            )


def _too_long(wanted: Sequence[Wanted]) -> Iterator[Complaint]:
    for each in wanted:
        limit = KINDS[each.submission.spec.kind].time_limit.total_seconds()
        if each.submission.max_runtime is not None and each.submission.max_runtime > limit:
            what = f"jobs of kind {each.submission.spec.kind} run for {limit:g} s at most"
            yield Complaint(f"{each.where}/max_runtime", what, "ask for less, or leave it out")


def _field_of(submission: Submission, artefact: UUID) -> str:
    return next((name for name, value in submission.spec if value == artefact), "")
