"""From sending a job to an idle machine to its handler's start.

The baseline is a bare Celery task: from sending it to its first line. Ours is on disk three times before it starts: as
a job, as dispatched, as claimed; so it may take twice as long, and three fsyncs of this disk more. Beside it stands
what the way by HTTP and through a database costs anybody: one POST that stores one row, from sending to its answer.
"""

import statistics
import time
from collections.abc import Sequence

import httpx
import redis

from bench.figure import Figure, fsync_seconds, in_turns
from bench.post import insert_alone
from bench.stage import Stage, Yard
from vlyard import Client, NoopSpec

_JOBS = 20  # in one turn
_PAUSE_SECONDS = 0.02  # between two bare ones: about as long as a job takes, while the API has nothing to do


def measure(stage: Stage) -> Sequence[Figure]:
    with (
        stage.yard("api", "dispatcher", "worker") as yard,
        stage.celery() as broker,
        insert_alone(stage, yard) as url,
    ):
        ours, theirs, posted = in_turns(lambda: milliseconds(yard), lambda: _celery(broker), lambda: _posts(url))
    bar = 2 + 3 * fsync_seconds() * 1000 / theirs
    what = "idle latency, submit to start"
    return [
        Figure(what, "ms", "less", ours, "a bare Celery task", theirs, bar),
        Figure(what, "ms", "less", ours, "FastAPI and one INSERT, until it answers", posted),
    ]


def milliseconds(yard: Yard, jobs: int = _JOBS) -> float:
    """The median of so many jobs, one after the other."""
    spent = []
    with Client(yard.api, yard.key) as client:
        for _ in range(jobs):
            began = time.time()
            job = client.wait(client.submit(NoopSpec()).id)
            assert job.started_at is not None
            spent.append(job.started_at.timestamp() - began)
    return statistics.median(spent) * 1000


def _posts(url: str) -> float:
    spent = []
    with httpx.Client() as client:
        for _ in range(_JOBS):
            time.sleep(_PAUSE_SECONDS)
            began = time.time()
            client.post(url, json={"spec": {"kind": "noop"}}).raise_for_status()
            spent.append(time.time() - began)
    return statistics.median(spent) * 1000


def _celery(broker: redis.Redis) -> float:
    from bench.celery_alone import NOTED, note

    spent = []
    for number in range(_JOBS):
        began = time.time()
        note.delay(number)
        while (noted := broker.getdel(f"{NOTED}:{number}")) is None:
            time.sleep(0.001)
        spent.append(float(noted) - began)
    return statistics.median(spent) * 1000
