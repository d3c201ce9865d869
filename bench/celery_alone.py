"""Celery with nothing of ours: a task that notes when it began. The baseline of `bench.latency`."""

import os
import time

from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(
    task_ignore_result=True,
    worker_pool="threads",
    worker_concurrency=1,
    worker_hijack_root_logger=False,
    broker_transport_options={"global_keyprefix": "bench:"},
)


@app.task(name="note")  # type: ignore[untyped-decorator]  # Celery has no types
def note(number: int) -> None:
    """Leave the time under the number."""
    import redis

    redis.Redis.from_url(os.environ["BENCH_REDIS_URL"]).set(f"bench-began:{number}", time.time())
