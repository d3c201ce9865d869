"""Cancelling at every boundary between two states, many times at once: one end for each job, and no second one."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from random import Random
from uuid import UUID

import psutil
import pytest

from control import lifecycle, submit
from control.accounts import Caller
from control.wakeup import Channel
from tests.control import promises
from tests.faults import datasets
from tests.system import System, eventually
from vlyard.errors import Conflict
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Batch

AT = (State.BLOCKED, State.QUEUED, State.DISPATCHED, State.RUNNING)  # when a job is cancelled
PATIENCE_SECONDS = 60.0


def _submit(system: System, caller: Caller, *specs: Mapping[str, object]) -> list[UUID]:
    entries = [{"name": f"n{number}", "spec": spec} for number, spec in enumerate(specs)]
    with system.database.transaction() as session:
        made = submit.submit_batch(session, caller, Batch.model_validate({"jobs": entries}), None)
    system.bell.strike(Channel.WORK)
    return [job.id for job in made]


def _cancel_at(system: System, caller: Caller, job: UUID, state: State, pause: float) -> None:
    """Cancel a job so long after it was seen in the state, or further on; that it has ended already is no error."""
    order = [*AT, *TERMINAL]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while order.index(system.job(job).state) < order.index(state) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(pause)
    for _ in range(2):  # whoever is impatient asks twice
        with suppress(Conflict), system.database.transaction() as session:
            lifecycle.cancel(session, caller.team, job)


def _storm(system: System, caller: Caller, jobs: Sequence[UUID], seed: int) -> None:
    """Cancel each job at a state of its own, soon after it was reached, in many threads."""
    rng = Random(seed)
    with ThreadPoolExecutor(8) as threads:
        cancelling = [
            threads.submit(_cancel_at, system, caller, job, state, rng.choice([0.0, rng.uniform(0, 0.3)]))
            for job, state in zip(jobs, cycle(AT), strict=False)
        ]
    for each in cancelling:
        each.result()  # raises what went wrong there


def _each_has_ended_once(system: System, jobs: Sequence[UUID]) -> Counter[State]:
    """How many ended in which state, and that none went on after its end."""
    for job in jobs:
        system.ended(job)
    with system.database.transaction() as session:
        seen = promises.look(session)
    promises.every_job_has_a_deadline_that_somebody_enforces(seen, system.settings.lease_seconds)
    promises.no_attempt_runs_beside_another(seen)
    promises.events_tell_every_move_and_have_no_gap(seen)
    for job in jobs:
        ends = [event["seq"] for event in seen.events[job] if event["data"].get("state") in TERMINAL]
        assert ends == [seen.jobs[job]["last_event"]]
        assert (seen.jobs[job]["result"] is not None) == (seen.jobs[job]["state"] is State.SUCCEEDED)
    return Counter(seen.jobs[job]["state"] for job in jobs)


def _blow(system: System, folder: Path, short: int, long: int) -> None:
    system.start_dispatcher()
    worker = system.start_worker(name="worker")
    caller = system.caller()
    large = str(datasets.large(system, caller, folder))
    # given short jobs, which travel in bundles, long ones, which have children, and some that wait for those
    reading = [{"kind": "conversion", "source": f"ref:n{number}/dataset"} for number in range(long)]
    jobs = _submit(
        system,
        caller,
        *[{"kind": "conversion", "source": large}] * long,
        *reading,
        *[{"kind": "noop", "seconds": 1.0}] * short,
    )
    # when each is cancelled, at one boundary or another
    _storm(system, caller, jobs, seed=short)
    # then each has one end; those that were cancelled before they could end are cancelled, or failed for those
    ends = _each_has_ended_once(system, jobs)
    assert ends[State.CANCELLED] >= len(jobs) / 2
    # nothing is left of the children, and the worker goes on
    eventually(lambda: not psutil.Process(worker).children(), what="the end of the children")
    assert system.ended(system.submit(caller)).state is State.SUCCEEDED
    assert psutil.Process(worker).is_running()


def test_a_storm_of_cancelling_leaves_each_job_with_one_end(system: System, tmp_path: Path) -> None:
    _blow(system, tmp_path, short=24, long=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_long_storm_of_cancelling_leaves_each_of_hundreds_of_jobs_with_one_end(
    system: System, tmp_path: Path
) -> None:
    _blow(system, tmp_path, short=300, long=16)
