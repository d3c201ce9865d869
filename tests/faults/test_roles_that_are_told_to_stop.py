"""Roles that are told to stop: each ends within its grace, nothing is lost, and no attempt is counted."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest

from db.models import Outcome
from tests.system import System, eventually
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State


def ended_within(pid: int, seconds: float) -> bool:
    """Whether the process is gone within so many seconds."""

    def is_gone() -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    return eventually(is_gone, seconds, f"the end of process {pid}")


def vlyard(system: System, *words: str) -> str:
    """What a command prints; it must succeed."""
    program = str(Path(sys.executable).with_name("vlyard"))
    done = subprocess.run([program, *words], env=system.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_worker_that_is_told_to_stop_ends_what_it_runs_and_gives_back_the_rest_of_its_message(system: System) -> None:
    # given a worker at the first job of a message
    submitted = [system.submit(seconds=1.8) for _ in range(9)]  # longer than until its start is heard of
    first = system.start_worker(name="first")
    system.start_dispatcher()
    eventually(lambda: any(system.job(job).progress for job in submitted), what="the first job's start")
    message = [job for job in submitted if system.job(job).state is State.RUNNING]
    assert len(message) == 3
    # when it is told to stop
    os.kill(first, signal.SIGTERM)
    assert ended_within(first, 30)
    # then the first has succeeded, and the others are queued again as if nothing had been
    done, *others = (system.job(job) for job in message)
    assert (done.state, done.attempt) == (State.SUCCEEDED, 1)
    assert {(row.state, row.failures, row.error is None, row.alone) for row in others} == {
        (State.QUEUED, 0, True, False)
    }
    # and another worker runs them
    system.start_worker(name="second")
    for job in message[1:]:
        assert system.ended(job).state is State.SUCCEEDED
        assert [each.outcome for each in system.attempts(job)] == [Outcome.RELEASED, Outcome.SUCCEEDED]


@pytest.mark.settings(SHUTDOWN_GRACE_SECONDS="1")
def test_a_job_that_outlasts_its_workers_grace_is_given_back_and_the_attempt_is_not_counted(system: System) -> None:
    system.start_dispatcher()
    worker = system.start_worker()
    job = system.submit(seconds=600)
    eventually(lambda: system.job(job).state is State.RUNNING)
    os.kill(worker, signal.SIGTERM)
    assert ended_within(worker, 20)
    row = system.job(job)
    assert (row.state, row.failures, row.error) == (State.QUEUED, 0, None)
    assert [each.outcome for each in system.attempts(job)] == [Outcome.RELEASED]


def test_a_dispatcher_that_is_told_to_stop_ends_at_once(system: System) -> None:
    dispatcher = system.start_dispatcher()
    system.start_worker()
    assert system.ended(system.submit()).state is State.SUCCEEDED
    os.kill(dispatcher, signal.SIGTERM)
    assert ended_within(dispatcher, 10)


def test_a_flower_that_is_told_to_stop_ends_within_its_grace(system: System) -> None:
    url = f"http://127.0.0.1:{system.settings.flower_port}/healthcheck"

    def answers() -> bool:
        try:
            return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    # given a Flower that has heard of a worker's messages
    system.start_dispatcher()
    system.start_worker()
    flower = system.start("flower", "flower", ready=answers)
    assert system.ended(system.submit()).state is State.SUCCEEDED
    # when it is told to stop, then it ends in the time that the supervisor gives it
    os.kill(flower, signal.SIGTERM)
    assert ended_within(flower, 10)


def test_an_api_that_is_told_to_stop_does_not_wait_for_those_who_follow_a_job(system: System) -> None:
    # given somebody who follows a job, somebody who waits for it, and a request that is under way
    url, job = system.start_api(), system.submit(seconds=600)
    headers = {"Authorization": f"Bearer {system.key()}"}
    entries = {"jobs": [{"spec": {"kind": "noop"}}] * 1000}
    with (
        ThreadPoolExecutor(3) as threads,
        httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http,
        http.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as reply,
    ):
        assert next(reply.iter_lines())
        waiter = threads.submit(http.get, f"/v1/jobs/{job}?wait=60")
        time.sleep(0.5)
        under_way = threads.submit(http.post, "/v1/jobs:batch", json=entries)
        time.sleep(0.3)
        # when the API is told to stop
        pid = system.supervisor.pid("api")
        os.kill(pid, signal.SIGTERM)
        # then whoever waits is told how the job is now, and what was under way is answered and done
        assert (waiter.result().status_code, waiter.result().json()["state"]) == (200, "queued")
        assert under_way.result().status_code == 202
        last = under_way.result().json()["data"][-1]["id"]
        assert system.job(UUID(last)).state is State.QUEUED
        # and it ends within its grace
        assert ended_within(pid, 15)


def test_a_draining_worker_ends_what_it_runs_and_takes_nothing_from_others_until_it_is_asked_to(
    system: System,
) -> None:
    # given a worker at work, and another one that listens to the same queues
    system.start_dispatcher()
    system.start_worker(Device.CPU, "--slots", "2", name="leaving")
    [leaving] = system.living()
    running = system.submit(kind="noop", seconds=3)
    eventually(lambda: system.job(running).state is State.RUNNING)
    # when an operator drains it and waits
    vlyard(system, "drain", leaving.name, "--wait")
    # then what it ran has succeeded
    assert system.job(running).state is State.SUCCEEDED
    assert "draining" in vlyard(system, "workers")
    # and what comes now waits for another worker, though it has a slot and nothing to do
    later = [system.submit() for _ in range(8)]
    with pytest.raises(AssertionError, match="did not happen"):
        system.ended(later[0], seconds=2)
    system.start_worker(name="staying")
    later += [system.submit() for _ in range(8)]
    for job in later:
        assert system.ended(job).state is State.SUCCEEDED
        assert leaving.id not in {each.worker_id for each in system.attempts(job)}
    # and it takes jobs again once it is asked to
    vlyard(system, "drain", leaving.name, "--undo")
    assert "draining" not in vlyard(system, "workers")
    system.kill("staying")
    assert system.ended(system.submit()).state is State.SUCCEEDED


def test_a_key_that_was_taken_back_opens_nothing(system: System) -> None:
    url, key = system.start_api(), system.key()
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{url}/v1/jobs", headers=headers, trust_env=False).status_code == 200
    vlyard(system, "revoke", key.split("_")[1])
    assert httpx.get(f"{url}/v1/jobs", headers=headers, trust_env=False).status_code == 401
