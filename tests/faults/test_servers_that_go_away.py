"""PostgreSQL and Redis stopped, wiped and restarted while jobs are on their way; messages doubled and stale."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from control.queue import Doorbells
from control.stack.stack import Stack
from control.stack.supervisor import Supervisor
from db.queue import Doorbell
from tests.system import System, eventually, fresh_database
from vlyard import Client, NoopSpec
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State
from vlyard.teams import Role


@pytest.fixture
def own_servers(tmp_path: Path, own_environment: dict[str, str]) -> Iterator[Stack]:
    """Servers that only this test has, because it breaks them."""
    with Stack(tmp_path / "servers", own_environment) as stack:
        yield stack


@pytest.fixture
def breakable(own_servers: Stack, environment: dict[str, str], tmp_path: Path) -> Iterator[System]:
    """A VLyard on servers of its own."""
    url = fresh_database(own_servers.settings["VLYARD_DATABASE_URL"])
    logs = tmp_path / "logs"
    with Supervisor(logs) as supervisor:
        system = System({**environment, **own_servers.settings, "VLYARD_DATABASE_URL": url}, supervisor, logs)
        system.prepare()
        yield system
        system.close()


def _restart(servers: Stack, name: str) -> None:
    servers.supervisor.start(servers.launches[name].process)


def test_jobs_outlive_a_redis_that_is_killed_and_comes_back_empty(breakable: System, own_servers: Stack) -> None:
    # given a running VLyard, with an API
    api = breakable.start_api()
    breakable.start_dispatcher()
    breakable.start_worker(name="worker")
    # when Redis is killed and loses everything
    own_servers.supervisor.kill("valkey")
    with Client(api, breakable.key()) as client:
        # then submitting still works, and the job waits
        job = client.submit(NoopSpec(echo="patient"))
        assert job.state is State.QUEUED
        for path in own_servers.folder.path.glob("valkey/appendonlydir/*"):
            path.unlink()
        # and once Redis is back, empty, everything runs
        _restart(own_servers, "valkey")
        assert client.wait(job.id, timeout=90).state is State.SUCCEEDED
        assert client.run(NoopSpec(echo="after")).model_dump()["echo"] == "after"


def test_a_restart_of_postgres_loses_nothing_that_was_accepted(breakable: System, own_servers: Stack) -> None:
    # given a running VLyard, and a job that a worker is busy with
    api = breakable.start_api()
    breakable.start_dispatcher()
    breakable.start_worker(name="worker")
    with Client(api, breakable.key()) as client:
        running = client.submit(NoopSpec(seconds=2, echo="running"))
        eventually(lambda: client.job(running.id).state is State.RUNNING)
        waiting = client.submit(NoopSpec(echo="waiting"))
        # when PostgreSQL is killed
        own_servers.supervisor.kill("postgres")
        # then the API says so, and when to come back
        answer = httpx.get(f"{api}/readyz", timeout=30, trust_env=False)
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert int(answer.headers["Retry-After"]) >= 1
        # and when it is back, both jobs end well, without anybody's help
        _restart(own_servers, "postgres")
        assert client.wait(running.id, timeout=90).state is State.SUCCEEDED
        assert client.wait(waiting.id, timeout=90).state is State.SUCCEEDED


def test_a_message_that_is_delivered_twice_runs_its_job_once(system: System) -> None:
    # given a dispatched job whose worker is not listening, and its message three times in the queue
    system.start_dispatcher()
    worker = system.start_worker(name="worker")
    os.killpg(worker, signal.SIGSTOP)
    job = system.submit(echo="once")
    eventually(lambda: system.job(job).state is State.DISPATCHED)
    Doorbells(system.settings).ring([Doorbell(((job, 1),), "default", "noop", Device.CPU)] * 2)
    # when the worker hears them all
    os.killpg(worker, signal.SIGCONT)
    # then one attempt ran, and the other messages found nothing to claim
    assert system.ended(job).state is State.SUCCEEDED
    eventually(lambda: system.log("worker").count("nothing to claim") >= 2)
    assert len(system.attempts(job)) == 1


def test_a_message_of_an_attempt_that_is_over_is_ignored(system: System) -> None:
    # given a job that has ended
    system.start_dispatcher()
    system.start_worker(name="worker")
    job = system.submit(fail="on purpose")
    assert system.ended(job).state is State.FAILED
    # when its message comes again, days later as it were, and another job after it
    Doorbells(system.settings).ring([Doorbell(((job, 1),), "default", "noop", Device.CPU)])
    later = system.submit(echo="later")
    # then the worker goes on as if nothing had been
    assert system.ended(later).state is State.SUCCEEDED
    eventually(lambda: "nothing to claim" in system.log("worker"))
    row = system.job(job)
    assert (row.state, row.attempt) == (State.FAILED, 1)
    assert row.error is not None
    assert row.error["message"] == "on purpose"


def test_a_gpu_kind_never_reaches_a_cpu_worker(system: System) -> None:
    # given a CPU worker and no other
    system.start_dispatcher()
    system.start_worker(name="worker")
    caller = system.caller(role=Role.ADMIN)
    picture = system.upload(caller, "picture.png", b"not looked at by anybody")
    # when a job of a GPU kind is submitted, and after it one of a CPU kind
    gpu = system.submit(caller, kind="inference", image=str(picture), prompt="What is this?")
    cpu = system.submit(caller)
    # then the CPU kind runs and the GPU kind waits, in Postgres and not in Redis
    assert system.ended(cpu).state is State.SUCCEEDED
    assert system.job(gpu).state is State.QUEUED
    connection = redis.Redis.from_url(system.settings.redis_url.get_secret_value())
    assert not list(connection.scan_iter(f"{system.settings.redis_prefix}gpu.*"))
