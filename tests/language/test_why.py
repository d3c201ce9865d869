"""Why a job is where it is, in words: a table of facts and what is said of them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from vlyard.errors import Blame, Complaint
from vlyard.jobs.state import State
from vlyard.jobs.view import Attempt, Failure, Job, Progress
from vlyard.jobs.why import Facts, Line, Need, Reason, Staff, explain

ID, OTHER = UUID(int=1), UUID(int=2)
NOW = datetime(2026, 7, 29, 8, 0, tzinfo=UTC)
BUSY = Staff(workers=2, slots=4, taken=4)
FREE = Staff(workers=2, slots=4, taken=3)
START = "vlyard worker --device gpu --pool night"


def job(state: State, **changes: Any) -> Job:
    known = {"id": ID, "kind": "inference", "pool": "night", "device": "gpu", "priority": 0, "spec": {}, "attempt": 0}
    return Job.model_validate({**known, "state": state, "created_at": NOW, **changes})


def attempt(number: int = 1, **changes: Any) -> Attempt:
    return Attempt.model_validate({"number": number, "worker": "w-1", "started_at": NOW, **changes})


def failure(code: str = "internal", blame: Blame = Blame.TRANSIENT, *complaints: Complaint) -> Failure:
    return Failure(code=code, message="it broke", blame=blame, complaints=complaints)


def facts(about: Job, **known: Any) -> Facts:
    return Facts(**{"job": about, "max_attempts": 3, "now": NOW, "since": NOW, **known})


def queued(staff: Staff, own: int = 0, others: int = 0, **known: Any) -> Facts:
    return facts(job(State.QUEUED), staff=staff, line=Line(own, others), **known)


def needs(*states: State) -> list[Need]:
    return [Need(job=OTHER, kind="conversion", state=state, output="dataset") for state in states]


# fmt: off
WAITING: dict[str, tuple[Facts, Reason, str, str]] = {  # facts, reason, sentence, next step
    "nobody is there": (
        queued(Staff()), Reason.NO_WORKER,
        "No worker of pool 'night' that runs inference jobs is alive.", f"Start a worker: {START}"),
    "all drain": (
        queued(Staff(draining=2)), Reason.NO_WORKER,
        "No worker of pool 'night' takes inference jobs: 2 workers are draining.",
        f"Start another worker: {START}. Or let one take jobs again: vlyard drain NAME --undo"),
    "own jobs go first": (
        queued(BUSY, 1, 7), Reason.OWN_LINE,
        "1 job of your team goes first. All 4 slots for inference jobs in pool 'night' are taken.",
        "Wait, or give it a higher priority than theirs."),
    "very many own jobs go first": (
        queued(BUSY, 1001), Reason.OWN_LINE,
        "More than 1,000 jobs of your team go first. All 4 slots for inference jobs in pool 'night' are taken.",
        "Wait, or give it a higher priority than theirs."),
    "own jobs go first to a free slot": (
        queued(FREE, 2), Reason.OWN_LINE,
        "2 jobs of your team go first. Slots are free.", "Wait, or give it a higher priority than theirs."),
    "other teams' jobs go first": (
        queued(BUSY, 0, 12), Reason.OTHER_TEAMS,
        "It is the next of your team. 12 jobs of other teams go first. "
        "All 4 slots for inference jobs in pool 'night' are taken.",
        f"Wait: teams take turns. With more workers they come faster: {START}"),
    "it is the next": (
        queued(Staff(workers=1, slots=1, taken=1)), Reason.SLOTS,
        "It is the next. The only slot for inference jobs in pool 'night' is taken.",
        f"Wait until one is free, or start another worker: {START}"),
    "a slot is free": (
        queued(FREE), Reason.NEXT, "A slot is free: it goes to a worker within moments.", "Wait a moment."),
    "a slot is free and nobody cares": (
        queued(FREE, since=NOW - timedelta(minutes=1)), Reason.NEXT,
        "A slot is free, and it waits since 2026-07-29 07:59:00 UTC: nobody sends it to a worker.",
        "See to it that a dispatcher runs: vlyard dispatcher"),
    "it backs off": (
        facts(job(State.QUEUED, attempt=2, attempts=[attempt(2, error=failure())]), until=NOW), Reason.BACKING_OFF,
        "Attempt 2 failed: it broke [internal]. The next one comes at 2026-07-29 08:00:00 UTC or soon after.",
        f"Wait. What the attempt said: vlyard logs {ID}"),
    "it waits for a job": (
        facts(job(State.BLOCKED), needs=needs(State.RUNNING), lacking=1), Reason.JOBS,
        f"It waits for the output 'dataset' of job {OTHER} (conversion, running).",
        f"Wait: it is queued once everything is there. Where that one is: vlyard why {OTHER}"),
    "it waits for many jobs": (
        facts(job(State.BLOCKED), needs=needs(State.QUEUED, State.QUEUED, State.SUCCEEDED), lacking=2), Reason.JOBS,
        f"It waits for the output 'dataset' of job {OTHER} (conversion, queued), and for 1 more output.",
        f"Wait: it is queued once everything is there. Where that one is: vlyard why {OTHER}"),
    "it waits for nothing any more": (
        facts(job(State.BLOCKED), needs=needs(State.SUCCEEDED)), Reason.JOBS,
        "All that it waited for is there: it is queued within moments.", "Wait a moment."),
    "it was sent out": (
        facts(job(State.DISPATCHED, attempt=1), staff=BUSY), Reason.HANDED_OVER,
        "It was sent to the workers at 2026-07-29 08:00:00 UTC: the first that is free takes it.", "Wait a moment."),
    "it was sent out and all have gone": (
        facts(job(State.DISPATCHED, attempt=1)), Reason.NO_WORKER,
        "No worker of pool 'night' that runs inference jobs is alive.", f"Start a worker: {START}"),
    "it was sent out and the worker drains": (
        facts(job(State.DISPATCHED, attempt=1), staff=Staff(draining=1)), Reason.HANDED_OVER,
        "It was sent to the workers at 2026-07-29 08:00:00 UTC: the first that is free takes it.", "Wait a moment."),
    "it runs": (
        facts(job(State.RUNNING, attempt=1, attempts=[attempt()], started_at=NOW,
                  progress=Progress(fraction=0.25, text="5 of 20 pictures"))), Reason.RUNNING,
        "w-1 runs attempt 1 of 3 since 2026-07-29 08:00:00 UTC (25%, 5 of 20 pictures).",
        f"Wait. How far it is: vlyard watch {ID}"),
    "it is in a bundle": (
        facts(job(State.RUNNING, attempt=1, attempts=[attempt()])), Reason.RUNNING,
        "w-1 has taken attempt 1 of 3, and does other short jobs before it.", "Wait a moment."),
    "its worker is silent": (
        facts(job(State.RUNNING, attempt=1, attempts=[attempt()], started_at=NOW),
              lease_until=NOW - timedelta(hours=1)),
        Reason.RUNNING,
        "w-1 ran attempt 1 of 3, and was last heard of before 2026-07-29 07:00:00 UTC: it is given up.",
        "Wait a moment: another attempt follows. Where it stays so, no dispatcher runs: vlyard dispatcher"),
    "it is being stopped": (
        facts(job(State.RUNNING, attempt=1, attempts=[attempt()], started_at=NOW, cancel_requested=True)),
        Reason.STOPPING, "w-1 runs attempt 1 of 3, and was told to stop.", "Wait until it has stopped."),
    "it succeeded": (
        facts(job(State.SUCCEEDED, finished_at=NOW, result={"artefacts": {"dataset": str(OTHER)}})), Reason.ENDED,
        "It succeeded at 2026-07-29 08:00:00 UTC.",
        f"Its result: vlyard job {ID}\nvlyard download {OTHER}  # dataset"),
    "it was cancelled": (
        facts(job(State.CANCELLED, finished_at=NOW)), Reason.ENDED,
        "It was cancelled at 2026-07-29 08:00:00 UTC.", f"Have it done after all: vlyard retry {ID}"),
    "it failed and does not say why": (
        facts(job(State.FAILED)), Reason.ENDED,
        "It failed and does not say why.", f"Look at its log: vlyard logs {ID}"),
}
# fmt: on


@pytest.mark.parametrize("case", WAITING)
def test_a_job_is_explained(case: str) -> None:
    known, reason, sentence, next_step = WAITING[case]
    why = explain(known)
    assert (why.reason, why.sentence, why.next_step) == (reason, sentence, next_step)
    assert (why.job, why.kind, why.pool, why.state) == (ID, "inference", "night", known.job.state)


PROMPT, IMAGE = (
    Complaint("/spec/prompt", "it is empty", "ask something"),
    Complaint("/spec/images/3", "it is no picture"),
)
FILE = Complaint("labels/7.txt:3", "five numbers expected")

MENDED: dict[str, tuple[Failure, str]] = {
    "one field": (
        failure("invalid_input", Blame.USER, PROMPT),
        f"Mend /spec/prompt and submit it again: vlyard clone {ID} --set spec.prompt=…",
    ),
    "two fields": (
        failure("invalid_input", Blame.USER, PROMPT, IMAGE),
        f"Mend /spec/prompt, /spec/images/3 and submit it again: vlyard clone {ID} --set spec.prompt=… "
        "--set spec.images=…",
    ),
    "a file": (
        failure("invalid_input", Blame.USER, FILE),
        f"Mend what it names and submit it again: vlyard clone {ID} --set spec.FIELD=…",
    ),
    "expired": (failure("expired", Blame.USER), f"Have it done after all: vlyard retry {ID}"),
    "memory": (
        failure("out_of_memory", Blame.OOM),
        f"Ask for less, or give the worker fewer slots, and try again: vlyard retry {ID}",
    ),
    "lost": (
        failure("worker_lost", Blame.LOST),
        f"Look at the workers' machines and logs, and try again: vlyard retry {ID}",
    ),
}


@pytest.mark.parametrize("case", MENDED)
def test_a_failed_job_is_told_how_to_go_on(case: str) -> None:
    error, next_step = MENDED[case]
    why = explain(facts(job(State.FAILED, attempt=2, error=error, finished_at=NOW)))
    assert why.next_step == next_step
    assert why.sentence.startswith("It failed at 2026-07-29 08:00:00 UTC in attempt 2 of 3: it broke")
    assert why.error == error


@pytest.mark.parametrize("blame", Blame)
def test_every_blame_has_a_next_step(blame: Blame) -> None:
    assert "vlyard " in explain(facts(job(State.FAILED, error=failure("anything", blame)))).next_step


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_sentence_though_nothing_more_is_known(state: State) -> None:
    why = explain(facts(job(state), since=None))
    assert why.sentence.endswith(".")
    assert why.next_step


def test_the_last_error_is_that_of_the_last_attempt_that_had_one() -> None:
    first, second = failure("disk_full"), failure("unavailable", Blame.OUTAGE)
    tries = [attempt(1, error=first), attempt(2, error=second), attempt(3)]
    assert explain(facts(job(State.RUNNING, attempt=3, attempts=tries, started_at=NOW))).error == second


def test_a_place_is_counted_as_far_as_it_is_told() -> None:
    assert (explain(queued(BUSY, 3, 4)).position, explain(queued(BUSY, 3, 4)).ahead) == (4, 7)
    assert (explain(queued(BUSY, 1001, 0)).position, explain(queued(BUSY, 999, 9)).ahead) == (1001, 1001)
    assert explain(facts(job(State.RUNNING, attempts=[attempt()]))).position is None
