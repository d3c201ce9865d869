"""Workers that die, hang or come back: what is promised of their jobs, with real processes and real signals."""

import os
import signal
import time

import pytest
import redis
from sqlalchemy import update

from db.models import Attempt, Outcome
from tests.system import System, eventually
from vlyard.jobs.state import State


def test_a_job_whose_worker_is_killed_runs_again_and_succeeds(system: System) -> None:
    # given a worker that is busy with a job
    system.start_dispatcher()
    system.start_worker(name="first")
    job = system.submit(seconds=4, echo="done")
    eventually(lambda: system.job(job).state is State.RUNNING)
    # when it is killed, and another one is there
    killed_at = time.monotonic()
    system.kill("first")
    system.start_worker(name="second")
    # then the lease expires, and the second attempt succeeds
    row = system.ended(job)
    first, second = system.attempts(job)
    assert row.state is State.SUCCEEDED
    assert row.result == {"artefacts": {}, "echo": "done", "attempt": 2}
    assert (first.outcome, second.outcome) == (Outcome.LOST, Outcome.SUCCEEDED)
    assert first.error is not None
    assert first.error["code"] == "worker_lost"
    assert first.worker_id != second.worker_id
    assert time.monotonic() - killed_at < 60


def test_a_worker_that_was_paused_past_its_lease_cannot_finish_its_attempt(system: System) -> None:
    # given a worker that is frozen in the middle of a job
    system.start_dispatcher()
    frozen = system.start_worker(name="frozen")
    job = system.submit(seconds=2, echo="mine")
    eventually(lambda: system.job(job).state is State.RUNNING)
    os.killpg(frozen, signal.SIGSTOP)
    # when another worker has finished the job, and the first one wakes up
    system.start_worker(name="successor")
    assert system.ended(job).attempt == 2
    with system.database.transaction() as session:  # and what it left in the store has been looked for
        session.execute(update(Attempt).where(Attempt.job_id == job, Attempt.number == 1).values(swept=True))
    os.killpg(frozen, signal.SIGCONT)
    eventually(lambda: "given up" in system.log("frozen"), what="the frozen worker's giving up")
    # then the successor's result stands
    row = system.job(job)
    assert row.state is State.SUCCEEDED
    assert row.result is not None
    assert row.result["attempt"] == 2
    assert [attempt.outcome for attempt in system.attempts(job)] == [Outcome.LOST, Outcome.SUCCEEDED]
    # and what it may have written since then is looked for again
    eventually(lambda: not system.attempts(job)[0].swept, what="its word that it has written its last only now")


@pytest.mark.settings(LEASE_SECONDS="10")
def test_a_doorbell_that_nobody_heard_is_rung_again(system: System) -> None:
    # given a dispatched job whose message was lost, because the worker that would have heard it was not listening
    system.start_dispatcher()
    paused = system.start_worker(name="paused")
    os.killpg(paused, signal.SIGSTOP)
    job = system.submit()
    eventually(lambda: system.job(job).state is State.DISPATCHED)
    connection = redis.Redis.from_url(system.settings.redis_url.get_secret_value())
    eventually(lambda: connection.delete(f"{system.settings.redis_prefix}cpu.default.noop"), what="the message")
    # when the worker listens again
    os.killpg(paused, signal.SIGCONT)
    # then the job runs, in its first attempt
    assert system.ended(job).state is State.SUCCEEDED
    assert system.job(job).attempt == 1
