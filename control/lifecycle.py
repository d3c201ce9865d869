"""How a job moves once it is in the queue: claimed, renewed, ended, reaped, cancelled.

Each function is the body of one transaction; the caller commits. Every write of a worker carries its attempt
number, so that one that was given up changes nothing.
"""

import random
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from control import registry
from control.endings import Ended, follow_up
from control.failures import failure_of
from control.retrying import Backoff, Past, counts, retry_delay
from db import artefacts, checkpoints, jobs, leases
from db.models import Job, Outcome
from db.owned import owned_row
from db.queue import Pair
from vlyard.errors import Blame, Conflict, OutOfMemory, VLyardError, WorkerLost
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Failure
from vlyard.models import makes_version

# A job that has run for so long is not suspected where its worker dies with one that has begun since.
PROBATION_SECONDS = KINDS["inference"].time_limit.total_seconds()


@dataclass(frozen=True)
class Ending:
    """How an attempt ended."""

    pair: Pair
    outcome: Outcome
    result: Mapping[str, Any] | None = None
    failure: Failure | None = None
    artefacts: Sequence[Mapping[str, Any]] = field(default=())
    spent: float | None = None  # seconds in the handler
    rescued: Sequence[Mapping[str, Any]] = field(default=())  # artefacts that are kept although it failed
    log: Mapping[str, Any] | None = None  # the file with what the handler said; kept whatever the outcome


@dataclass(frozen=True)
class Rules:
    """When attempts are given up and tried again."""

    lease_seconds: float
    backoff: Backoff
    rng: random.Random


def claim(session: Session, worker: UUID, pairs: Sequence[Pair], rules: Rules) -> Sequence[leases.Claimed]:
    """Take dispatched jobs, in the order of `pairs`; without those whose doorbell was stale, doubled or late."""
    claimed = {(job.job, job.attempt): job for job in leases.claim(session, worker, pairs, rules.lease_seconds)}
    return [claimed[pair] for pair in pairs if pair in claimed]


def finish(session: Session, worker: UUID, endings: Sequence[Ending], rules: Rules) -> Mapping[Pair, State]:
    """Record how attempts ended; returns their jobs' new states, without the attempts that are not its own any more."""
    by_pair = {ending.pair: ending for ending in endings}
    held = {(job.job, job.attempt): job for job in leases.lock_held(session, worker, list(by_pair))}
    by_pair |= _empty_promises(session, held, by_pair)
    made = [row for pair, job in held.items() for row in _made_by(job, by_pair[pair])]
    artefacts.insert_ready(session, made)
    by_pair |= _named(session, held, by_pair)
    return _conclude(session, [(job, by_pair[pair]) for pair, job in held.items()], rules)


def reap(session: Session, rules: Rules, limit: int = 500, among: Collection[UUID] | None = None) -> int:
    """Close the attempts whose leases have run out, of these jobs where some are named; returns how many."""
    lost = failure_of(WorkerLost())
    expired = leases.lock_expired(session, limit, among)
    _conclude(session, [(job, Ending((job.job, job.attempt), Outcome.LOST, failure=lost)) for job in expired], rules)
    return len(expired)


def cancel(session: Session, team: UUID, job: UUID) -> Job:
    """Cancel a job: at once while it waits, through its worker while it runs; raises `Conflict` once it has ended."""
    row = owned_row(session, Job, team, job, lock=True)  # so that nobody claims or ends it between the two statements
    if jobs.cancel_waiting(session, team, job):
        follow_up(session, [Ended(job, team, State.CANCELLED)])
    elif not jobs.request_cancel(session, team, job):
        raise Conflict(f"the job has ended already: it is {row.state}")
    session.refresh(row)
    return row


def _conclude(session: Session, ended: Sequence[tuple[leases.Held, Ending]], rules: Rules) -> Mapping[Pair, State]:
    before = _before(session, ended, rules)
    closings = [_closing(job, ending, before, rules) for job, ending in ended]
    if closings:
        leases.end_attempts(session, closings)
    over = [Ended(each.held.job, each.held.team, each.target) for each in closings if each.target in TERMINAL]
    follow_up(session, over)
    return {(each.held.job, each.held.attempt): each.target for each in closings}


@dataclass(frozen=True)
class _Before:
    """What must be known of jobs besides their rows, to say what becomes of them."""

    progressed: Set[Pair]  # attempts that were lost, and left more than they were given
    shortages: Mapping[UUID, int]  # attempts before that ran out of memory
    company: Mapping[UUID, leases.Company]  # of jobs that were lost with others


def _before(session: Session, ended: Sequence[tuple[leases.Held, Ending]], rules: Rules) -> _Before:
    lost = [ending.pair for _, ending in ended if _blame(ending) is Blame.LOST]
    short = [ending.pair[0] for _, ending in ended if _blame(ending) is Blame.OOM]
    return _Before(
        checkpoints.left_by(session, lost) if lost else set(),
        checkpoints.ended_with(session, short, OutOfMemory.code) if short else {},
        leases.company(session, [job for job, _ in lost], rules.lease_seconds + PROBATION_SECONDS) if lost else {},
    )


def _blame(ending: Ending) -> Blame:
    return ending.failure.blame if ending.failure else Blame.TRANSIENT


def _closing(job: leases.Held, ending: Ending, before: _Before, rules: Rules) -> leases.Closing:
    """What becomes of a job whose attempt ended so."""
    closing = leases.Closing(job, ending.outcome, State.SUCCEEDED, job.failures, spent=ending.spent)
    if ending.outcome is Outcome.SUCCEEDED:
        return replace(closing, result=ending.result)
    error = ending.failure.model_dump(mode="json") if ending.failure else None
    if ending.outcome is Outcome.CANCELLED or job.cancel_requested:
        said = {**ending.result, "artefacts": {}} if ending.result else None  # its files were not kept
        return replace(closing, target=State.CANCELLED, error=error, result=said)
    if ending.outcome is Outcome.RELEASED:
        return replace(closing, target=State.QUEUED, alone=job.alone)
    if ending.outcome is Outcome.LOST and not _is_charged(job, before.company.get(job.job)):
        return replace(closing, target=State.QUEUED, error=error, alone=True)
    blame = _blame(ending)
    failures = job.failures + counts(blame, progressed=ending.pair in before.progressed)
    past = Past(failures, before.shortages.get(job.job, 0) + (blame is Blame.OOM))
    delay = retry_delay(blame, past, job.max_attempts, rules.backoff, rules.rng)
    if delay is None:
        return replace(closing, target=State.FAILED, failures=failures, error=error)
    alone = ending.outcome is Outcome.LOST
    return replace(closing, target=State.QUEUED, failures=failures, error=error, delay=delay, alone=alone)


def _is_charged(job: leases.Held, company: leases.Company | None) -> bool:
    """Whether a lost attempt is held against its job.

    Of several that a worker was lost with any may be why, and each goes on probation. From then on it is the one that
    is on probation; where none is, those that have had theirs, so that none goes on for ever.
    """
    if company is None or company.on_probation:
        return True
    return job.alone and not company.beside_probation


def _empty_promises(
    session: Session, held: Mapping[Pair, leases.Held], by_pair: Mapping[Pair, Ending]
) -> Mapping[Pair, Ending]:
    """How attempts really end whose results name artefacts that they did not store, and that are not there either."""
    named = {pair: names for pair in held if (names := _not_its_own(by_pair[pair]))}
    wanted: dict[UUID, set[UUID]] = {}
    for pair, names in named.items():
        wanted.setdefault(held[pair].team, set()).update(names)
    there = {(team, row.id) for team, ids in wanted.items() for row in artefacts.ready(session, team, ids)}
    ends = {}
    for pair, names in named.items():
        if absent := [f"{name} ({id})" for id, name in names.items() if (held[pair].team, id) not in there]:
            why = VLyardError(f"the result names artefacts that were never stored: {', '.join(absent)}")
            ends[pair] = replace(by_pair[pair], outcome=Outcome.FAILED, result=None, failure=failure_of(why))
    return ends


def _named(session: Session, held: Mapping[Pair, leases.Held], by_pair: Mapping[Pair, Ending]) -> Mapping[Pair, Ending]:
    """How attempts end that made a model: with the name of its version in their results."""
    made = [
        (held[pair].team, ending)
        for pair in held
        if (ending := by_pair[pair]).outcome is Outcome.SUCCEEDED and makes_version(ending.result or {})
    ]
    return {
        ending.pair: replace(ending, result=registry.add(session, team, ending.pair[0], ending.result or {}))
        for team, ending in sorted(made, key=lambda each: (each[0], each[1].pair))
    }


def _not_its_own(ending: Ending) -> Mapping[UUID, str]:
    """The artefacts that a result names and its attempt did not make, each with its name there."""
    outputs = (ending.result or {}).get("artefacts") or {}
    if ending.outcome is not Outcome.SUCCEEDED or not outputs:
        return {}
    own = {row["id"] for row in ending.artefacts}
    return {id: name for name, text in outputs.items() if (id := UUID(str(text))) not in own}


def _made_by(job: leases.Held, ending: Ending) -> list[Mapping[str, Any]]:
    own = {"team_id": job.team, "job_id": job.job, "attempt": job.attempt}
    made = {Outcome.SUCCEEDED: ending.artefacts, Outcome.FAILED: ending.rescued}.get(ending.outcome, ())
    return [{**row, **own} for row in [*made, *([ending.log] if ending.log else [])]]
