"""Accepting jobs: checked, made and stored in one transaction. Redis has no part in it."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

import orjson
from pydantic import BaseModel
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control import dependencies, registry
from control.accounts import Caller
from control.dependencies import Plan, Wanted
from control.lineage import with_lineage
from control.sharding import with_shares
from db import artefacts, idempotency, jobs
from db.dependencies import insert_needs
from db.idempotency import Try
from db.jobs import NewJob
from db.models import Job
from db.owned import owned_row
from vlyard.errors import Complaint, Forbidden, InvalidInput, VLyardError
from vlyard.files import ArtefactKind
from vlyard.jobs.generation import ModelAlias, ModelVersion
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.ours import presumed
from vlyard.jobs.spec import Reference, Spec
from vlyard.jobs.view import Batch, Submission
from vlyard.models import alias_in
from vlyard.teams import Role

_REFUSED = "the request is not valid"
_MOST_JOBS = 10_000  # in one transaction, shares among them: more would not be stored within a statement's time

Submitted = Job | NewJob  # what an earlier try of the request stored, as it is now; or what was stored just now


@dataclass(frozen=True)
class Request:
    """A submission that shares a transaction with those of others, and nothing else."""

    caller: Caller
    submission: Submission
    idempotency_key: str | None
    id: UUID = field(default_factory=uuid7)  # of the job, unless an earlier try has made it


def submit(session: Session, caller: Caller, submission: Submission, idempotency_key: str | None) -> Submitted:
    """Store a job, or find the one that an earlier try of the same request stored."""
    new = uuid7()
    if idempotency_key is not None:
        made = idempotency.remember(session, caller.team, idempotency_key, fingerprint(submission), new)
        if made != new:
            return owned_row(session, Job, caller.team, made)
    [job] = accept(session, caller, [Wanted(new, submission, "")])
    return job


def submit_each(session: Session, requests: Sequence[Request]) -> Sequence[Submitted | VLyardError]:
    """Do for each request what `submit` does, with a handful of statements for all of them.

    Each has an answer of its own, and one that is refused harms no other. No job among them may wait for another one's
    output, or be one that several share: that locks rows, and everybody here would have to wait for them.
    """
    given = [(each.caller, Wanted(each.id, each.submission, "")) for each in requests]
    asked = _with_versions(session, given)
    facts = _facts(session, asked)
    refused = {wanted.id: fault for caller, wanted in asked if (fault := _fault(caller, wanted, facts))}
    for _, wanted in given:  # as it was before VLyard set anything
        if complaints := tuple(presumed(wanted.submission.spec, wanted.where)):
            refused[wanted.id] = InvalidInput(_REFUSED, complaints)
    before = _made_before(session, requests, refused)
    nothing = Plan({}, {}, ())
    new = {
        wanted.id: _job(caller.team, wanted, nothing, facts.now)
        for caller, wanted in asked
        if wanted.id not in refused and wanted.id not in before
    }
    jobs.insert_jobs(session, new.values())
    found: dict[UUID, Submitted | VLyardError] = {**refused, **new}
    for each in requests:
        if made := before.get(each.id):
            found[each.id] = owned_row(session, Job, each.caller.team, made) if isinstance(made, UUID) else made
    return [found[each.id] for each in requests]


def _made_before(
    session: Session, requests: Sequence[Request], refused: Collection[UUID]
) -> Mapping[UUID, UUID | VLyardError]:
    """By the request's id, what an earlier try of it made, or why that cannot be said. Remembers those that are new."""
    tries = [
        Try(each.caller.team, each.idempotency_key, fingerprint(each.submission), each.id)
        for each in requests
        if each.idempotency_key is not None
    ]
    fresh = [each for each in tries if each.made not in refused]
    said = dict(zip(fresh, idempotency.remember_each(session, fresh), strict=True))
    # What is refused now may have been accepted before, when an input was still there.
    known = idempotency.made_before(session, [each for each in tries if each.made in refused])
    return {each.made: found for each, found in (said | known).items() if found is not None and found != each.made}


def submit_batch(session: Session, caller: Caller, batch: Batch, idempotency_key: str | None) -> Sequence[Submitted]:
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
    session: Session, caller: Caller, wanted: Sequence[Wanted], names: Mapping[str, UUID] | None = None
) -> Sequence[NewJob]:
    """Store wanted jobs, all or none, or raise `InvalidInput` with every fault; `names` are a batch's entries."""
    for each in wanted:
        _admit(caller, each)
    presumptions = [complaint for each in wanted for complaint in presumed(each.submission.spec, each.where)]
    everyone = with_shares(each for _, each in _with_versions(session, [(caller, each) for each in wanted]))
    if len(everyone) > _MOST_JOBS:
        what = f"with their shares these are {len(everyone)} jobs, and {_MOST_JOBS} are accepted at once"
        raise InvalidInput(_REFUSED, [Complaint("/jobs", what, "ask for fewer shards, or send several requests")])
    facts = _facts(session, [(caller, each) for each in everyone])
    complaints = dict.fromkeys(complaint for each in everyone for complaint in _complaints(caller.team, each, facts))
    plan = dependencies.plan(session, caller.team, everyone, names or {})
    if faults := [*presumptions, *complaints, *plan.complaints]:
        raise InvalidInput(_REFUSED, faults)
    made = {each.id: _job(caller.team, each, plan, facts.now) for each in everyone}
    jobs.insert_jobs(session, made.values())
    insert_needs(session, plan.rows())
    return [made[each.id] for each in wanted]


def _with_versions(session: Session, asked: Sequence[tuple[Caller, Wanted]]) -> Sequence[tuple[Caller, Wanted]]:
    """The same with the versions for which the aliases stand that are named: what is stored is what will run.

    An export of a version is told where that comes from.
    """
    versions = registry.pointed_at(session, ((caller.team, wanted.submission.spec) for caller, wanted in asked))
    pointed = ((caller, _with_version(caller.team, wanted, versions)) for caller, wanted in asked)
    return [
        (caller, _with_spec(wanted, _shared(caller, with_lineage(session, caller.team, wanted.submission.spec))))
        for caller, wanted in pointed
    ]


def _with_version(team: UUID, wanted: Wanted, versions: Mapping[tuple[UUID, ModelAlias], str]) -> Wanted:
    alias = alias_in(wanted.submission.spec)
    if alias is None or (team, alias) not in versions:
        return wanted
    return _with_spec(wanted, wanted.submission.spec.model_copy(update={"model": versions[team, alias]}))


def _shared(caller: Caller, spec: Spec) -> Spec:
    """The specification with what was left open: what an administrator imports is for every team, others' is not."""
    if getattr(spec, "shared", False) is not None:
        return spec
    return spec.model_copy(update={"shared": caller.role is Role.ADMIN})


def _with_spec(wanted: Wanted, spec: Spec) -> Wanted:
    if spec is wanted.submission.spec:
        return wanted
    return replace(wanted, submission=wanted.submission.model_copy(update={"spec": spec}))


def _job(team: UUID, wanted: Wanted, plan: Plan, now: datetime) -> NewJob:
    submission = wanted.submission
    kind = KINDS[submission.spec.kind]
    state, spec = plan.start(wanted.id, submission.spec.model_dump(mode="json"))
    seconds = submission.expires_in
    return NewJob(
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
        expires_at=submission.expires_at if seconds is None else now + timedelta(seconds=seconds),
        max_runtime_seconds=submission.max_runtime,
        part_of=wanted.part_of,
        cloned_from=wanted.cloned_from,
        created_at=now,
    )


# --- what is checked ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """What the database knows about wanted jobs."""

    now: datetime
    pools: Collection[str]
    ready: Mapping[tuple[UUID, UUID], ArtefactKind]  # by (team, artefact)
    models: Mapping[UUID, Sequence[ModelVersion]]  # by team, all versions of models that are named


def _facts(session: Session, asked: Sequence[tuple[Caller, Wanted]]) -> _Facts:
    registry.hold(session, ((caller.team, wanted.submission.spec) for caller, wanted in asked))
    pools: set[str] = set()
    inputs: dict[UUID, set[UUID]] = {}
    for caller, wanted in asked:
        pools.add(wanted.submission.pool)
        if named := _inputs(wanted):
            inputs.setdefault(caller.team, set()).update(named)
    files = ((team, file) for team, named in inputs.items() for file in artefacts.readable(session, team, named))
    ready = {(team, file.id): file.kind for team, file in files}
    now, found = jobs.circumstances(session, pools)
    models = registry.existing(session, ((caller.team, wanted.submission.spec) for caller, wanted in asked))
    return _Facts(now, found, ready, models)


def _fault(caller: Caller, wanted: Wanted, facts: _Facts) -> VLyardError | None:
    """Why a job cannot be accepted."""
    try:
        _admit(caller, wanted)
    except Forbidden as error:
        return error
    complaints = tuple(_complaints(caller.team, wanted, facts))
    return InvalidInput(_REFUSED, complaints) if complaints else None


def _admit(caller: Caller, wanted: Wanted) -> None:
    spec = wanted.submission.spec
    if caller.role is Role.ADMIN:
        return
    if KINDS[spec.kind].admin_only:
        raise Forbidden(f"jobs of kind {spec.kind} are for administrators")
    if getattr(spec, "shared", False):
        fault = Complaint(
            f"{wanted.where}/spec/shared", "this key is a member's", "leave it out, or ask an administrator"
        )
        raise Forbidden("Only an administrator may share a model with every team.", [fault])


def _complaints(team: UUID, wanted: Wanted, facts: _Facts) -> Iterator[Complaint]:
    yield from _unstorable(wanted)
    if wanted.submission.pool not in facts.pools:
        yield Complaint(f"{wanted.where}/pool", f"there is no pool {wanted.submission.pool!r}")
    for id in _inputs(wanted):
        where = f"{wanted.where}/spec{wanted.submission.spec.place_of(id)}"
        kind = facts.ready.get((team, id))
        if kind is None:
            fix = "upload it, complete the upload, then name its id here"
            yield Complaint(where, f"there is no artefact {id} that is ready", fix)
        elif kind is ArtefactKind.TREE and id not in wanted.submission.spec.trees():
            yield Complaint(where, f"the artefact {id} is a directory", "name a file")
    yield from registry.complaints(wanted.submission.spec, wanted.where, facts.models.get(team, ()))
    yield from _too_long(wanted)


def _inputs(wanted: Wanted) -> Sequence[UUID]:
    """The artefacts that a job names by their ids."""
    return [id for id in wanted.submission.spec.inputs() if not isinstance(id, Reference)]


def _unstorable(wanted: Wanted) -> Iterator[Complaint]:
    for name, value in wanted.submission.spec.model_dump(mode="json").items():
        if _holds_nul(value):
            what = "the text contains the character U+0000, which cannot be stored"
            yield Complaint(f"{wanted.where}/spec/{name}", what, "remove it")


def _holds_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_nul, (*value, *value.values())))
    if isinstance(value, list):
        return any(map(_holds_nul, value))
    return isinstance(value, str) and "\0" in value


def _too_long(wanted: Wanted) -> Iterator[Complaint]:
    kind, asked = KINDS[wanted.submission.spec.kind], wanted.submission.max_runtime
    limit = kind.time_limit.total_seconds()
    if asked is not None and asked > limit:
        what = f"jobs of kind {kind.name} run for {limit:g} s at most"
        yield Complaint(f"{wanted.where}/max_runtime", what, "ask for less, or leave it out")
