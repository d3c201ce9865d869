"""Thousands of short jobs under workers that are killed all the time: none is lost, and none has two results.

Celery alone, with late acknowledgement and rejection of lost workers' tasks, loses 9 to 25 of as many.
"""

import json
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select
from uuid_utils.compat import uuid7

from control.stack.supervisor import Process
from control.wakeup import Channel
from db.models import Attempt, Job, JobEvent, Outcome, Worker
from tests.house.tree import ROOT
from tests.system import System
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

JOBS = 9_000
JOB_SECONDS = 0.08  # so that they last for many kills, and who is killed is at work
EVERY_SECONDS = 0.5  # a worker is killed
ALIVE = 16  # workers at any moment: each lives for eight seconds, of which it needs some to begin where there is no CPU
LEAST_AT_WORK = 60  # of those that are killed
PATIENCE_SECONDS = 900


@dataclass(frozen=True)
class Kill:
    """A worker that was killed: when, in seconds of a clock that only goes on, and how its process ended."""

    name: str
    at: float
    code: int


def _kill_by_the_clock(system: System, told: Path) -> None:
    """Have the oldest of several workers killed every half second, and another one begin; each kill is told there."""
    command = (sys.executable, "-m", "tests.faults.short_lives", str(told), str(EVERY_SECONDS), str(ALIVE))
    system.supervisor.start(Process("workers", command, told.exists, system.environment, folder=ROOT, patience=120))


def _kills(told: Path) -> Sequence[Kill]:
    return [Kill(*json.loads(line)) for line in told.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_SECONDS + 120)
@pytest.mark.settings(LEASE_SECONDS="4", RING_AFTER_SECONDS="5")
def test_nine_thousand_jobs_under_a_killed_worker_every_half_second_all_succeed_once(
    system: System, tmp_path: Path
) -> None:
    # given nine thousand queued jobs
    caller = system.caller()
    rows = [
        {
            "id": uuid7(),
            "team_id": caller.team,
            "kind": "noop",
            "pool": "default",
            "device": Device.CPU,
            "spec": {"kind": "noop", "echo": str(number), "seconds": JOB_SECONDS},
            "state": State.QUEUED,
            "max_attempts": 10,  # where workers die this often, one job can be lost alone three times by mere chance
        }
        for number in range(JOBS)
    ]
    with system.database.transaction() as session:
        session.execute(insert(Job), rows)
    system.start_dispatcher()
    # when a worker is killed every half second for as long as there are jobs
    _kill_by_the_clock(system, tmp_path / "kills")
    system.bell.strike(Channel.WORK)
    began = time.monotonic()
    while _count(system, Job.state.not_in([State.SUCCEEDED, State.FAILED])):
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.5)
    took = time.monotonic() - began
    system.supervisor.kill("workers")
    kills = _kills(tmp_path / "kills")
    # then every job has succeeded, with its own result
    with system.database.transaction() as session:
        ended = {job: (state, result) for job, state, result in session.execute(select(Job.id, Job.state, Job.result))}
        doubled = session.execute(
            select(Attempt.job_id).where(Attempt.outcome == Outcome.SUCCEEDED).group_by(Attempt.job_id)
            .having(func.count() > 1)
        ).all()  # fmt: skip
        successes = session.scalar(
            select(func.count()).where(JobEvent.type == "state", JobEvent.data["state"].astext == State.SUCCEEDED)
        )
    lost = [row["id"] for row in rows if ended[row["id"]][0] is not State.SUCCEEDED]
    assert lost == []
    assert all((ended[row["id"]][1] or {})["echo"] == row["spec"]["echo"] for row in rows)  # type: ignore[index]
    # and none twice
    assert doubled == []
    assert successes == JOBS
    # and the kills were by the clock, and of workers that were at work
    pause = statistics.median(after.at - before.at for before, after in pairwise(kills))
    at_work = _at_work(system, kills)
    killed = f"{len(kills)} workers killed, {len(at_work)} of them at work, and {pause:.3f} s between two"
    print(f"{JOBS} jobs in {took:.0f} s: {killed}; {_lost_attempts(system)} attempts lost")  # noqa: T201  # for `make faults`
    assert pause <= 1.2 * EVERY_SECONDS
    assert {kill.code for kill in kills} == {-signal.SIGKILL}  # none had ended before, by itself
    assert len(at_work) >= LEAST_AT_WORK


def _at_work(system: System, kills: Sequence[Kill]) -> set[str]:
    """The names of those that took an attempt, or several, with them."""
    lost = select(Worker.name).join(Attempt, Attempt.worker_id == Worker.id).where(Attempt.outcome == Outcome.LOST)
    with system.database.transaction() as session:
        return {kill.name for kill in kills} & set(session.scalars(lost))


def _count(system: System, condition: object) -> int:
    with system.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(Job).where(condition)) or 0  # type: ignore[arg-type]


def _lost_attempts(system: System) -> int:
    with system.database.transaction() as session:
        return session.scalar(select(func.count()).where(Attempt.outcome == Outcome.LOST)) or 0
