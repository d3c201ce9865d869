"""Redis killed and wiped, frozen, and full: submitting goes on, and everything runs when it is well again."""

import time
from statistics import quantiles

import httpx
import pytest

from db.models import Outcome
from tests.faults.breaking import Servers
from tests.system import System, eventually
from vlyard import Client, NoopSpec
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State


def test_jobs_outlive_a_redis_that_is_killed_and_comes_back_empty(breakable: System, own_servers: Servers) -> None:
    # given a busy worker with one slot, and a message that waits for it in Redis
    api = breakable.start_api()
    breakable.start_dispatcher()
    breakable.start_worker(Device.CPU, "--slots", "1", name="worker")
    with Client(api, breakable.key()) as client:
        running = client.submit(NoopSpec(echo="running", seconds=2))
        eventually(lambda: client.job(running.id).state is State.RUNNING)
        rung = client.submit(NoopSpec(echo="rung"))
        eventually(lambda: client.job(rung.id).state is State.DISPATCHED)
        # when Redis is killed and loses everything
        own_servers.kill("valkey")
        # then submitting still works, and the job waits
        job = client.submit(NoopSpec(echo="patient"))
        assert job.state is State.QUEUED
        for path in own_servers.stack.folder.path.glob("valkey/appendonlydir/*"):
            path.unlink()
        # and once Redis is back, empty, everything runs, in its first attempt
        own_servers.restart("valkey")
        for each in (running, rung, job):
            ended = client.wait(each.id, timeout=90)
            assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)
        assert client.run(NoopSpec(echo="after")).model_dump()["echo"] == "after"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [4, 60])  # shorter and longer than what makes a client give up a connection
@pytest.mark.timeout(300)
def test_a_redis_that_hangs_delays_no_request_and_its_workers_resume(
    breakable: System, own_servers: Servers, seconds: float
) -> None:
    # given a running VLyard, and how long it takes to submit
    api = breakable.start_api()
    breakable.start_dispatcher()
    breakable.start_worker(name="worker")
    with httpx.Client(
        base_url=api, headers={"Authorization": f"Bearer {breakable.key()}"}, trust_env=False, timeout=30
    ) as client:
        before = [_submit(client) for _ in range(100)]
        assert client.get(f"/v1/jobs/{before[-1][0]}", params={"wait": 60}).json()["state"] == State.SUCCEEDED
        # when Redis hangs
        with own_servers.frozen("valkey"):
            thawing = time.monotonic() + seconds
            meanwhile = [_submit(client) for _ in range(100)]
            while time.monotonic() < thawing:
                meanwhile.append(_submit(client))
                time.sleep(0.1)
        # then nobody who submitted had to wait for it
        assert _p99(meanwhile) < 2 * _p99(before) + 0.25
        # and the workers have done everything a minute after it came back
        deadline = time.monotonic() + 60
        for job, _ in meanwhile:
            answer = client.get(f"/v1/jobs/{job}", params={"wait": max(0, deadline - time.monotonic())}).json()
            assert (answer["state"], answer["attempt"]) == (State.SUCCEEDED, 1)


def test_a_full_redis_is_waited_out_by_the_dispatcher_which_says_so(breakable: System, own_servers: Servers) -> None:
    # given a worker that listens, and a Redis that has no room
    caller = breakable.caller()
    breakable.start_worker(name="worker")
    own_servers.await_listener()
    with own_servers.redis() as connection:
        connection.config_set("maxmemory", "1")
        # when jobs are submitted, and the dispatcher tries for a while
        jobs = [breakable.submit(caller, echo=str(number)) for number in range(40)]
        started = time.monotonic()
        breakable.start_dispatcher()
        eventually(lambda: _said(breakable) >= 3, what="three tries of the dispatcher")
        # then it says what is wrong, and does not try all the time
        assert "maxmemory" in breakable.log("dispatcher")
        assert _said(breakable) <= time.monotonic() - started + 1
        # and once there is room, the same process has everything run, in its first attempt
        connection.config_set("maxmemory", "0")
    for number, job in enumerate(jobs):
        row = breakable.ended(job)
        assert row.result == {"artefacts": {}, "echo": str(number), "attempt": 1}
        assert [attempt.outcome for attempt in breakable.attempts(job)] == [Outcome.SUCCEEDED]


def _submit(client: httpx.Client) -> tuple[str, float]:
    """Submit a no-op; returns its id, and the seconds that the answer took."""
    asked = time.monotonic()
    answer = client.post("/v1/jobs", json={"spec": {"kind": "noop"}})
    took = time.monotonic() - asked
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    return answer.json()["id"], took


def _p99(submitted: list[tuple[str, float]]) -> float:
    return quantiles([took for _, took in submitted], n=100)[-1]


def _said(system: System) -> int:
    return system.log("dispatcher").count('"event": "waiting"')
