"""Why a job is where it is: what the API says of it, and its words. Facts in, an explanation out; no database."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from vlyard.errors import Blame
from vlyard.jobs.state import State
from vlyard.jobs.view import Failure, Job

FARTHEST = 1_000  # places in a line that are counted; whatever is farther is "more than 1,000"
MOST_NAMED = 20  # jobs of those that one waits for, by name
_A_MOMENT = timedelta(seconds=10)  # after which a job that could go to a worker should have gone


class Reason(StrEnum):
    """Why a job is where it is."""

    JOBS = "jobs"  # it waits for what other jobs make
    NO_WORKER = "no_worker"  # no living worker of its pool takes jobs of its kind
    BACKING_OFF = "backing_off"  # an attempt failed, and the next one comes later
    OWN_LINE = "own_line"  # other jobs of its team go first
    OTHER_TEAMS = "other_teams"  # it is the next of its team, and other teams' jobs go first
    SLOTS = "slots"  # it is the next of all, and every slot is taken
    NEXT = "next"  # it goes to a worker within moments
    HANDED_OVER = "handed_over"  # it was sent to the workers, and none has taken it yet
    RUNNING = "running"  # a worker runs it
    STOPPING = "stopping"  # a worker runs it, and was told to stop
    ENDED = "ended"  # nothing will happen to it any more


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Need(_View):
    """A job whose output another one waits for."""

    job: UUID
    kind: str
    state: State
    output: str = Field(description="The name of what is waited for, in that job's `result.artefacts`.")


class Why(_View):
    """Why a job is where it is, and what to do about it."""

    job: UUID
    kind: str
    pool: str
    state: State
    reason: Reason
    sentence: str = Field(description="The reason in words.")
    next_step: str = Field(description="What you can do about it.")
    since: datetime | None = Field(None, description="Since when it has been so, where that is known.")
    until: datetime | None = Field(None, description="When its next attempt may begin, while it backs off.")
    worker: str | None = Field(None, description="The worker that runs it.")
    needs: tuple[Need, ...] = Field(
        (), description=f"What it waits for, what has not ended first; {MOST_NAMED} at most."
    )
    position: int | None = Field(
        None, description=f"Its place in its team's line, from 1; {FARTHEST + 1} stands for every place from there on."
    )
    ahead: int | None = Field(
        None, description=f"How many jobs of all teams go first; {FARTHEST + 1} stands for every greater number."
    )
    attempt: int = Field(description="The number of the current or last attempt; 0 before the first.")
    max_attempts: int
    error: Failure | None = Field(None, description="Why the last attempt that ended badly did so.")


@dataclass(frozen=True)
class Staff:
    """The living workers of a pool that run a kind, and their slots."""

    workers: int = 0  # those that take jobs
    draining: int = 0  # those that do not
    slots: int = 0
    taken: int = 0


@dataclass(frozen=True)
class Line:
    """A queued job's place: how many jobs go first, counted up to `FARTHEST` + 1."""

    own: int = 0  # of its team
    others: int = 0  # of other teams


@dataclass(frozen=True)
class Facts:
    """What is known of a job's place. What does not concern its state is left as it is here."""

    job: Job  # with its attempts
    max_attempts: int
    now: datetime
    since: datetime | None = None  # it has been in its state
    until: datetime | None = None  # it backs off
    needs: Sequence[Need] = ()  # the first of them
    lacking: int = 0  # how many have not succeeded yet
    staff: Staff = Staff()
    line: Line | None = None
    lease_until: datetime | None = None  # its worker has it
    alone: bool = False  # it was lost in company, and is on probation


@dataclass(frozen=True)
class _Said:
    reason: Reason
    sentence: str
    next_step: str
    worker: str | None = None


def explain(facts: Facts) -> Why:
    """Put the facts into words."""
    job, line = facts.job, facts.line
    said = _BY_STATE.get(job.state, _ended)(facts)
    return Why(
        job=job.id,
        kind=job.kind,
        pool=job.pool,
        state=job.state,
        reason=said.reason,
        sentence=said.sentence,
        next_step=said.next_step,
        since=facts.since,
        until=facts.until,
        worker=said.worker,
        needs=tuple(facts.needs),
        position=min(line.own + 1, FARTHEST + 1) if line else None,
        ahead=min(line.own + line.others, FARTHEST + 1) if line else None,
        attempt=job.attempt,
        max_attempts=facts.max_attempts,
        error=_last_error(job),
    )


# --- the states -----------------------------------------------------------------------------------------------


def _blocked(facts: Facts) -> _Said:
    open_needs = [need for need in facts.needs if need.state is not State.SUCCEEDED]
    if not open_needs:
        return _Said(Reason.JOBS, "All that it waited for is there: it is queued within moments.", "Wait a moment.")
    first = open_needs[0]
    named = f"the output {first.output!r} of job {first.job} ({first.kind}, {first.state})"
    more = f", and for {_count(facts.lacking - 1, 'more output', 'more outputs')}" if facts.lacking > 1 else ""
    step = f"Wait: it is queued once everything is there. Where that one is: vlyard why {first.job}"
    return _Said(Reason.JOBS, f"It waits for {named}{more}.", step)


def _queued(facts: Facts) -> _Said:
    if facts.until is not None:
        return _backing_off(facts, facts.until)
    if not facts.staff.workers:
        return _without_workers(facts)
    return _in_line(facts, facts.line or Line())


def _in_line(facts: Facts, line: Line) -> _Said:
    full = facts.staff.taken >= facts.staff.slots
    slots = _taken(facts) if full else "Slots are free"
    if line.own:
        sentence = f"{_jobs(line.own)} of your team {_go(line.own)} first. {slots}."
        return _Said(Reason.OWN_LINE, sentence, "Wait, or give it a higher priority than theirs.")
    if line.others:
        sentence = (
            f"It is the next of your team. {_jobs(line.others)} of other teams {_go(line.others)} first. {slots}."
        )
        step = f"Wait: teams take turns. With more workers they come faster: {_worker(facts)}"
        return _Said(Reason.OTHER_TEAMS, sentence, step)
    if full:
        step = f"Wait until one is free, or start another worker: {_worker(facts)}"
        return _Said(Reason.SLOTS, f"It is the next. {slots}.", step)
    if facts.since is not None and facts.now - facts.since > _A_MOMENT:
        sentence = f"A slot is free, and it waits since {_time(facts.since)}: nobody sends it to a worker."
        return _Said(Reason.NEXT, sentence, "See to it that a dispatcher runs: vlyard dispatcher")
    return _Said(Reason.NEXT, "A slot is free: it goes to a worker within moments.", "Wait a moment.")


def _backing_off(facts: Facts, until: datetime) -> _Said:
    job, error = facts.job, _last_error(facts.job)
    why = f": {error.message} [{error.code}]" if error else ""
    sentence = f"Attempt {job.attempt} failed{why}. The next one comes at {_time(until)} or soon after."
    return _Said(Reason.BACKING_OFF, sentence, f"Wait. What the attempt said: vlyard logs {job.id}")


def _without_workers(facts: Facts) -> _Said:
    job, staff = facts.job, facts.staff
    if staff.draining:
        drain = _count(staff.draining, "worker is draining", "workers are draining")
        sentence = f"No worker of pool {job.pool!r} takes {job.kind} jobs: {drain}."
        step = f"Start another worker: {_worker(facts)}. Or let one take jobs again: vlyard drain NAME --undo"
        return _Said(Reason.NO_WORKER, sentence, step)
    sentence = f"No worker of pool {job.pool!r} that runs {job.kind} jobs is alive."
    return _Said(Reason.NO_WORKER, sentence, f"Start a worker: {_worker(facts)}")


def _dispatched(facts: Facts) -> _Said:
    if not (facts.staff.workers or facts.staff.draining):
        return _without_workers(facts)
    sent, first = f"It was sent to the workers at {_time(facts.since)}", "the first that is free takes it"
    if facts.alone:
        sent = f"A worker was lost with it and others, so nothing that has only begun is to run beside it. {sent}"
        first = "the first where that is so takes it"
    sentence = f"{sent}: {first}."
    return _Said(Reason.HANDED_OVER, sentence, "Wait a moment.")


def _running(facts: Facts) -> _Said:
    job = facts.job
    worker = job.attempts[-1].worker if job.attempts else "A worker"
    attempt = f"attempt {job.attempt} of {facts.max_attempts}"
    if facts.lease_until is not None and facts.lease_until < facts.now:
        sentence = f"{worker} ran {attempt}, and was last heard of before {_time(facts.lease_until)}: it is given up."
        step = "Wait a moment: another attempt follows. Where it stays so, no dispatcher runs: vlyard dispatcher"
        return _Said(Reason.RUNNING, sentence, step, worker)
    if job.cancel_requested:
        sentence = f"{worker} runs {attempt}, and was told to stop."
        return _Said(Reason.STOPPING, sentence, "Wait until it has stopped.", worker)
    if job.started_at is None:
        sentence = f"{worker} has taken {attempt}, and does other short jobs before it."
        return _Said(Reason.RUNNING, sentence, "Wait a moment.", worker)
    sentence = f"{worker} runs {attempt} since {_time(job.started_at)}{_progress(job)}."
    return _Said(Reason.RUNNING, sentence, f"Wait. How far it is: vlyard watch {job.id}", worker)


def _ended(facts: Facts) -> _Said:
    job = facts.job
    at = f" at {_time(job.finished_at)}" if job.finished_at else ""
    if job.state is State.SUCCEEDED:
        made = (job.result or {}).get("artefacts", {})
        files = [f"vlyard download {id}  # {name}" for name, id in made.items()]
        return _Said(Reason.ENDED, f"It succeeded{at}.", "\n".join(["Its result: vlyard job " + str(job.id), *files]))
    if job.state is State.CANCELLED:
        return _Said(Reason.ENDED, f"It was cancelled{at}.", f"Have it done after all: vlyard retry {job.id}")
    if job.error is None:
        return _Said(Reason.ENDED, f"It failed{at} and does not say why.", f"Look at its log: vlyard logs {job.id}")
    complaints = "".join(f"; {complaint}" for complaint in job.error.complaints[:3])
    tries = f" in attempt {job.attempt} of {facts.max_attempts}" if job.attempt else ""
    sentence = f"It failed{at}{tries}: {job.error.message}{complaints} [{job.error.code}]."
    return _Said(Reason.ENDED, sentence, _mending(job.id, job.error))


_BY_STATE: Mapping[State, Callable[[Facts], _Said]] = {
    State.BLOCKED: _blocked,
    State.QUEUED: _queued,
    State.DISPATCHED: _dispatched,
    State.RUNNING: _running,
}


# --- what to do about an error --------------------------------------------------------------------------------

_BY_CODE: Mapping[str, str] = {
    "dependency_failed": "Mend the job that it waited for, and clone this one with what that brings: vlyard clone {id} "
    "--set spec.FIELD=…",
    "expired": "Have it done after all: vlyard retry {id}",
    "time_limit_exceeded": "Ask for less at once, and submit it again: vlyard clone {id} --set spec.FIELD=…",
}
_BY_BLAME: Mapping[Blame, str] = {
    Blame.USER: "Mend what it names and submit it again: vlyard clone {id} --set spec.FIELD=…",
    Blame.OOM: "Ask for less, or give the worker fewer slots, and try again: vlyard retry {id}",
    Blame.TRANSIENT: "Look at what it said (vlyard logs {id}), and try again: vlyard retry {id}",
    Blame.OUTAGE: "See that the server which was away is back, and try again: vlyard retry {id}",
    Blame.LOST: "Look at the workers' machines and logs, and try again: vlyard retry {id}",
}


def _mending(id: UUID, error: Failure) -> str:
    fields = [complaint.where for complaint in error.complaints if complaint.where.startswith("/spec/")]
    if fields and error.blame is Blame.USER:
        # A merge patch takes a list as a whole: what is inside of one is named by the list.
        named = dict.fromkeys(re.sub(r"/\d+(/.*)?$", "", field) for field in fields)
        changes = " ".join(f"--set {field.strip('/').replace('/', '.')}=…" for field in named)
        return f"Mend {', '.join(fields)} and submit it again: vlyard clone {id} {changes}"
    return _BY_CODE.get(error.code, _BY_BLAME[error.blame]).format(id=id)


# --- words ----------------------------------------------------------------------------------------------------


def _last_error(job: Job) -> Failure | None:
    errors = (attempt.error for attempt in reversed(job.attempts) if attempt.error)
    return next(errors, job.error)


def _worker(facts: Facts) -> str:
    return f"vlyard worker --device {facts.job.device} --pool {facts.job.pool}"


def _progress(job: Job) -> str:
    if job.progress is None:
        return ""
    fraction = "" if job.progress.fraction is None else f"{job.progress.fraction:.0%}"
    said = ", ".join(part for part in (fraction, job.progress.text) if part)
    return f" ({said})" if said else ""


def _count(number: int, one: str, many: str) -> str:
    if number > FARTHEST:
        return f"more than {FARTHEST:,} {many}"
    return f"{number:,} {one if number == 1 else many}"


def _jobs(number: int) -> str:
    text = _count(number, "job", "jobs")
    return text[0].upper() + text[1:]


def _go(number: int) -> str:
    return "goes" if number == 1 else "go"


def _taken(facts: Facts) -> str:
    slots, of = facts.staff.slots, f"for {facts.job.kind} jobs in pool {facts.job.pool!r}"
    return f"The only slot {of} is taken" if slots == 1 else f"All {slots} slots {of} are taken"


def _time(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at else "an unknown time"
