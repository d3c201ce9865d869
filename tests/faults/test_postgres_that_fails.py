"""PostgreSQL restarted, gone or hanging for longer than a lease, and dropping its connections all the time."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from uuid import UUID

import httpx
import psycopg
import pytest

from db.models import Outcome
from tests.faults.breaking import Servers
from tests.system import System, eventually
from vlyard import Client, NoopSpec
from vlyard.jobs.state import State

JOBS = 300
PAUSE_SECONDS = 0.2  # between two moments in which every connection is ended


@pytest.mark.settings(LEASE_SECONDS="60")
def test_a_restart_of_postgres_loses_nothing_that_was_accepted(breakable: System, own_servers: Servers) -> None:
    # given a running VLyard, and a job that a worker is busy with, whose lease will last
    api = breakable.start_api()
    breakable.start_dispatcher()
    breakable.start_worker(name="worker")
    with Client(api, breakable.key()) as client:
        running = client.submit(NoopSpec(seconds=8, echo="running"))
        eventually(lambda: client.job(running.id).state is State.RUNNING)
        waiting = client.submit(NoopSpec(echo="waiting"))
        # when PostgreSQL is killed
        own_servers.kill("postgres")
        # then the API says so, and when to come back
        answer = httpx.get(f"{api}/readyz", timeout=30, trust_env=False)
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert int(answer.headers["Retry-After"]) >= 1
        # and when it is back, both jobs end well, without anybody's help
        own_servers.restart("postgres")
        ended = client.wait(running.id, timeout=90)
        assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)  # it ran on meanwhile
        assert client.wait(waiting.id, timeout=90).state is State.SUCCEEDED


@contextmanager
def _killed(servers: Servers) -> Iterator[None]:
    servers.kill("postgres")
    yield
    servers.restart("postgres")


def _frozen(servers: Servers) -> AbstractContextManager[None]:
    return servers.frozen("postgres")


@pytest.mark.parametrize("away", [pytest.param(_killed, marks=pytest.mark.slow), _frozen])
def test_a_worker_gives_up_what_it_cannot_renew_and_its_successors_result_stands(
    breakable: System, own_servers: Servers, away: Callable[[Servers], AbstractContextManager[None]]
) -> None:
    # given a worker that is busy with a job
    breakable.start_dispatcher()
    breakable.start_worker(name="worker")
    job = breakable.submit(seconds=4, echo="mine")
    eventually(lambda: breakable.job(job).state is State.RUNNING)
    # when PostgreSQL is away for longer than the lease
    with away(own_servers):
        # then the worker stops by itself, while it is away
        eventually(lambda: "attempt given up" in breakable.log("worker"), what="the giving up")
        assert "attempts ended" not in breakable.log("worker")
    # and when PostgreSQL is back, the attempt counts as lost, and the next one's result stands
    row = breakable.ended(job)
    assert (row.state, row.attempt) == (State.SUCCEEDED, 2)
    assert row.result == {"artefacts": {}, "echo": "mine", "attempt": 2}
    assert [attempt.outcome for attempt in breakable.attempts(job)] == [Outcome.LOST, Outcome.SUCCEEDED]


@pytest.mark.slow
def test_a_postgres_that_ends_every_connection_again_and_again_loses_nothing(system: System) -> None:
    # given a running VLyard, all of whose connections are ended all the time
    api = system.start_api()
    system.start_dispatcher()
    system.start_worker(name="worker")
    key = system.key()
    statuses: list[int] = []

    def submit(number: int) -> UUID:
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": str(number)}
        body = {"spec": {"kind": "noop", "echo": str(number), "seconds": 0.01}}
        while True:
            answer = httpx.post(f"{api}/v1/jobs", json=body, headers=headers, timeout=60, trust_env=False)
            statuses.append(answer.status_code)
            if answer.status_code == httpx.codes.ACCEPTED:
                return UUID(answer.json()["id"])
            # then the API says when to come back, and nothing else
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
            assert int(answer.headers["Retry-After"]) >= 1

    # when jobs are submitted, each until it is accepted, and run meanwhile
    with _connections_ended(system) as rounds, ThreadPoolExecutor(4) as threads:
        jobs = list(threads.map(submit, range(JOBS)))
        eventually(lambda: len(rounds) > 20)
    # then every request made one job, and each has succeeded once, with its own result
    assert len(set(jobs)) == JOBS
    for number, job in enumerate(jobs):
        row = system.ended(job, 90)
        assert row.state is State.SUCCEEDED
        assert row.result is not None
        assert row.result["echo"] == str(number)
        assert [each.outcome for each in system.attempts(job)].count(Outcome.SUCCEEDED) == 1
    assert sum(rounds) > 100
    assert Counter(statuses)[httpx.codes.SERVICE_UNAVAILABLE] > 0


@contextmanager
def _connections_ended(system: System) -> Iterator[list[int]]:
    """End every connection but the test's, again and again; how many it were each time."""
    rounds: list[int] = []
    over = threading.Event()

    def end() -> None:
        with psycopg.connect(system.settings.database_url.get_secret_value(), autocommit=True) as connection:
            while not over.wait(PAUSE_SECONDS):
                ended = connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name LIKE 'vlyard%'"
                ).fetchall()
                rounds.append(len(ended))

    thread = threading.Thread(target=end)
    thread.start()
    try:
        yield rounds
    finally:
        over.set()
        thread.join()
