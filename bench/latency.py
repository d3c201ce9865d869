"""From submitting a job on an idle machine to its handler's start, beside a bare Celery task's way."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from bench.figure import Figure, in_turns
from control.stack.roles import start_roles
from control.stack.stack import Stack
from control.stack.supervisor import Process
from vlyard import Client, NoopSpec

_ENOUGH = 20  # jobs in one turn


def measure() -> list[Figure]:
    with TemporaryDirectory() as name, _running(Path(name)) as (client, broker):
        ours, theirs = in_turns(lambda: _ours(client), lambda: _celery(broker))
    return [Figure("idle latency, submit to start", "ms", "less", ours, "a bare Celery task", theirs)]


@contextmanager
def _running(folder: Path) -> Iterator[tuple[Client, redis.Redis]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLYARD_")}
    with Stack(folder / "stack", environment) as stack:
        doors = start_roles(stack)
        url = stack.settings["VLYARD_REDIS_URL"]
        os.environ["BENCH_REDIS_URL"] = url
        command = (sys.executable, "-m", "celery", "-A", "bench.celery_alone", "worker", "--loglevel=WARNING")
        from bench.celery_alone import app

        process = Process("celery", command, lambda: bool(app.control.ping(timeout=1)))
        stack.supervisor.start(process)
        with Client(doors.api, doors.key) as client:
            yield client, redis.Redis.from_url(url)


def _ours(client: Client) -> float:
    spent = []
    for _ in range(_ENOUGH):
        job = client.wait(client.submit(NoopSpec()).id)
        assert job.started_at is not None
        spent.append((job.started_at - job.created_at).total_seconds())
    return sorted(spent)[_ENOUGH // 2] * 1000


def _celery(broker: redis.Redis) -> float:
    from bench.celery_alone import note

    spent = []
    for number in range(_ENOUGH):
        began = time.time()
        note.delay(number)
        while (noted := broker.getdel(f"bench-began:{number}")) is None:
            time.sleep(0.001)
        spent.append(float(noted) - began)
    return sorted(spent)[_ENOUGH // 2] * 1000
