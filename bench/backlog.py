"""The other figures with 100,000 jobs waiting, beside an empty queue.

The baseline is a VLyard on the same servers whose queue is empty. In one of the full ones the jobs wait in a pool that
no worker serves; in the other they wait in the pool that is measured, another team's, backing off until tomorrow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from bench import bulk, latency, post, throughput
from bench.figure import Figure, in_turns
from bench.stage import IDLE_POOL, Stage, Yard
from control.preparing import DEFAULT_POOL

_WAITING = 100_000


@dataclass(frozen=True)
class _Measure:
    """A figure of another module, taken quickly."""

    name: str
    unit: str
    better: str
    way: Callable[[Yard], float]


_MEASURES = (
    _Measure("POST one job", "jobs/s", "more", lambda yard: post.posts_a_second(yard, 500)),
    _Measure("POST with a key", "jobs/s", "more", lambda yard: post.posts_a_second(yard, 500, keyed=True)),
    _Measure("bulk submit", "jobs/s", "more", lambda yard: bulk.jobs_a_second(yard, 2)),
    _Measure("submit to succeeded", "jobs/s", "more", lambda yard: throughput.ended_a_second(yard, 2)),
    _Measure("submit to start", "ms", "less", lambda yard: latency.milliseconds(yard, 10)),
)


def measure(stage: Stage) -> Sequence[Figure]:
    roles = ("api", "dispatcher", "worker")
    with stage.yard(*roles) as empty, stage.yard(*roles) as elsewhere, stage.yard(*roles) as here:
        now = datetime.now(UTC)
        _fill(elsewhere, IDLE_POOL, available_at=now, rung_at=None)
        _fill(here, DEFAULT_POOL, available_at=now + timedelta(days=1), rung_at=now)
        return [figure for each in _MEASURES for figure in _figures(each, empty, elsewhere, here)]


def _figures(each: _Measure, empty: Yard, elsewhere: Yard, here: Yard) -> Sequence[Figure]:
    way, better = each.way, each.better
    none, far, near = in_turns(lambda: way(empty), lambda: way(elsewhere), lambda: way(here))
    bar = 0.8 if better == "more" else 1 / 0.8
    return [
        Figure(f"{each.name}, 100,000 wait elsewhere", each.unit, better, far, "an empty queue", none, bar),
        Figure(f"{each.name}, 100,000 back off here", each.unit, better, near, "an empty queue", none, bar),
    ]


def _fill(yard: Yard, pool: str, *, available_at: datetime, rung_at: datetime | None) -> None:
    columns = "id, team_id, kind, pool, device, spec, state, max_attempts, available_at, rung_at"
    with psycopg.connect(yard.database_url, autocommit=True) as connection:
        team = uuid7()
        connection.execute("INSERT INTO teams (id, name) VALUES (%s, 'waiting')", (team,))
        with connection.cursor().copy(f"COPY jobs ({columns}) FROM STDIN") as copy:
            for _ in range(_WAITING):
                copy.write_row((*_row(team, pool), available_at, rung_at))
        connection.execute("VACUUM ANALYZE jobs")


def _row(team: UUID, pool: str) -> Sequence[object]:
    return (uuid7(), team, "noop", pool, "cpu", '{"kind": "noop"}', "queued", 3)
