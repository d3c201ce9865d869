"""No-op jobs a second from a bulk submission to the last job's end, as its row says it.

The baselines are Celery's, with ignored results: one task a message, and 32 ids a message, which is what a bundle of
ours has. Each id is counted as done in Redis, by itself: so the end is seen, and that is less than a job leaves behind,
whose spec, states and result are on disk. The last row says what remains where a message's ids are counted all at once,
so that nothing is known of any of them; it has no bar. The clock runs from the first message to the last end.
"""

import time
from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import redis

from bench.bulk import BATCH, jobs_a_second
from bench.figure import Figure, fsync_seconds, in_turns
from bench.stage import Stage, Yard
from control.preparing import DEFAULT_POOL

_BATCHES = 5  # of 1,000 jobs, in one turn
_CHUNK = 32
_PATIENCE_SECONDS = 120
_FAST_DISK = 500  # fsyncs a second, from which on there is an absolute bar, too
_AT_LEAST = 1_000  # jobs a second
_MINE: LiteralString = "FROM jobs WHERE team_id = %s AND id > %s"
_FROM_HERE: LiteralString = "FROM jobs WHERE team_id = %s AND id >= %s"  # what ended before is not read again


def measure(stage: Stage) -> Sequence[Figure]:
    with stage.yard("api", "dispatcher", "worker") as yard, stage.celery() as broker:
        from bench.celery_alone import count, count_together  # here, because that file reads where its broker is

        ours, single, chunked, bare = in_turns(
            lambda: ended_a_second(yard, _BATCHES),
            lambda: _celery(broker, count, 1),
            lambda: _celery(broker, count, _CHUNK),
            lambda: _celery(broker, count_together, _CHUNK),
        )
    fast = 1 / fsync_seconds() >= _FAST_DISK
    return [
        _figure(ours, "Celery, one task a message", single, 1.0),
        _figure(ours, "Celery, 32 ids a message", chunked, 0.5),
        _figure(ours, f"{_AT_LEAST:,} jobs/s, with {_FAST_DISK} fsync/s", _AT_LEAST, 1.0 if fast else None),
        _figure(ours, "Celery, 32 ids counted at once", bare, None),
    ]


def _figure(ours: float, name: str, baseline: float, bar: float | None) -> Figure:
    return Figure("no-op, bulk submit to succeeded", "jobs/s", "more", ours, name, baseline, bar)


def ended_a_second(yard: Yard, batches: int) -> float:
    """Submit so many batches to a worker, and wait until every job has succeeded."""
    with psycopg.connect(yard.database_url, autocommit=True) as connection:
        newest = _ask(connection, "SELECT id FROM jobs WHERE team_id = %s ORDER BY id DESC LIMIT 1", yard.team)
        mine = yard.team, newest or UUID(int=0)
        began = time.perf_counter()
        jobs_a_second(yard, batches, DEFAULT_POOL)
        ended = UUID(int=mine[1].int + 1)  # the ids of this turn are larger
        while ended := _ask(
            connection, f"SELECT id {_FROM_HERE} AND finished_at IS NULL ORDER BY id LIMIT 1", yard.team, ended
        ):
            _insist(began)
            time.sleep(0.01)
        spent = time.perf_counter() - began
        assert _ask(connection, f"SELECT count(*) {_MINE} AND state = 'succeeded'", *mine) == batches * BATCH
        return batches * BATCH / spent


def _ask(connection: psycopg.Connection, query: LiteralString, *values: UUID) -> Any:
    row = connection.execute(query, values).fetchone()
    return row[0] if row else None


def _celery(broker: redis.Redis, task: Any, together: int) -> float:
    from bench.celery_alone import DONE, app

    run, ids = uuid4().hex, range(_BATCHES * BATCH)
    began = time.perf_counter()
    with app.producer_or_acquire() as producer:
        for at in range(0, len(ids), together):
            task.apply_async((run, list(ids[at : at + together])), producer=producer)
    while int(str(broker.get(f"{DONE}:{run}") or 0)) < len(ids):
        _insist(began)
        time.sleep(0.01)
    return len(ids) / (time.perf_counter() - began)


def _insist(began: float) -> None:
    assert time.perf_counter() - began < _PATIENCE_SECONDS, "the jobs do not end"
