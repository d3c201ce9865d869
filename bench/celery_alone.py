"""Celery with nothing of ours: the baseline of `bench.latency` and `bench.throughput`.

One worker with a pool of two threads, with which it is at its fastest on two cores; no results, no events, and tasks
that do next to nothing.
"""

import os
import time
from collections.abc import Sequence
from functools import cache

import redis
from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(
    task_ignore_result=True,
    worker_pool="threads",
    worker_concurrency=2,
    worker_hijack_root_logger=False,
    broker_transport_options={"global_keyprefix": "bench:"},
)

NOTED, DONE = "bench-began", "bench-done"  # with a number, and with the name of a run: keys of Redis


@app.task(name="note")  # type: ignore[untyped-decorator]  # Celery has no types
def note(number: int) -> None:
    """Leave the time under the number."""
    _redis().set(f"{NOTED}:{number}", time.time())


@app.task(name="count")  # type: ignore[untyped-decorator]
def count(run: str, ids: Sequence[int]) -> None:
    """Do nothing with each of these ids, and count it as done."""
    for _ in ids:
        _redis().incr(f"{DONE}:{run}")


@app.task(name="count_together")  # type: ignore[untyped-decorator]
def count_together(run: str, ids: Sequence[int]) -> None:
    """Do nothing with these ids, and count them as done, all at once."""
    _redis().incrby(f"{DONE}:{run}", len(ids))


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])
