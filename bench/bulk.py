"""Jobs a second that the API takes in batches of 1,000.

The baseline is the rows alone: the same 1,000 jobs and their 1,000 first events, in two multi-row INSERTs in one
transaction, by the same driver straight to the same PostgreSQL. Its rows are made before its clock starts.
"""

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx
import orjson
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from bench.figure import Figure, in_turns
from bench.stage import IDLE_POOL, Stage, Yard
from vlyard import NoopSpec

BATCH = 1_000
_BATCHES = 4  # in one turn
_JOB = ("id", "team_id", "kind", "pool", "device", "priority", "spec", "state", "max_attempts", "labels", "last_event")
_EVENT = ("job_id", "seq", "type", "data")


def measure(stage: Stage) -> Sequence[Figure]:
    with stage.yard("api") as yard, psycopg.connect(yard.database_url) as connection:
        ours, rows = in_turns(lambda: jobs_a_second(yard, _BATCHES), lambda: _rows_a_second(connection, yard.team))
    return [Figure("bulk submit of 1,000", "jobs/s", "more", ours, "multi-row INSERT", rows, bar=0.5)]


def jobs_a_second(yard: Yard, batches: int, pool: str = IDLE_POOL) -> float:
    """Submit so many batches of 1,000, one after the other."""
    body = orjson.dumps({"jobs": [{"spec": {"kind": "noop"}, "pool": pool}] * BATCH})
    headers = {"Authorization": f"Bearer {yard.key}", "Content-Type": "application/json"}
    with httpx.Client(base_url=yard.api, headers=headers, timeout=60, trust_env=False) as http:
        http.get("/healthz")  # the connection is there
        began = time.perf_counter()
        for _ in range(batches):
            http.post("/v1/jobs:batch", content=body).raise_for_status()
        return batches * BATCH / (time.perf_counter() - began)


def _rows_a_second(connection: psycopg.Connection, team: UUID) -> float:
    spent = 0.0
    for _ in range(_BATCHES):
        ids = [uuid7() for _ in range(BATCH)]
        spec = Jsonb(NoopSpec().model_dump(mode="json"))
        jobs = [(id, team, "noop", IDLE_POOL, "cpu", 0, spec, "queued", 3, Jsonb({}), 1) for id in ids]
        events = [(id, 1, "state", Jsonb({"state": "queued"})) for id in ids]
        began = time.perf_counter()
        _insert(connection, "jobs", _JOB, jobs)
        _insert(connection, "job_events", _EVENT, events)
        connection.commit()
        spent += time.perf_counter() - began
    return _BATCHES * BATCH / spent


def _insert(connection: psycopg.Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    row = sql.SQL("({})").format(sql.SQL(", ").join(sql.Placeholder() * len(columns)))
    statement = sql.SQL("INSERT INTO {} ({}) VALUES {}").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join([row] * len(rows))
    )
    connection.execute(statement, [value for each in rows for value in each])
