"""/v1/pools: where jobs can run, who works there, and how long the lines are."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update

from db import leases, workers
from db.models import Worker
from db.session import Database
from tests.api.conftest import Join
from tests.api.visitor import Visitor
from tests.db import rows
from vlyard.jobs.kinds import Device
from vlyard.teams import Role


@pytest.fixture
def pool(visitor: Visitor) -> str:
    """A pool of the test's own."""
    name = f"p{uuid4().hex}"
    assert visitor.post("/v1/pools", {"name": name}).status_code == 201
    return name


def shown(visitor: Visitor, pool: str) -> dict[str, Any]:
    reply = visitor.get("/v1/pools")
    assert reply.status_code == 200, reply.text
    [found] = [each for each in reply.json()["data"] if each["name"] == pool]
    return dict(found)


def test_a_new_pool_takes_jobs_before_it_has_workers(visitor: Visitor, pool: str) -> None:
    job = visitor.post("/v1/jobs", {"spec": {"kind": "noop"}, "pool": pool}).json()
    assert (job["state"], job["pool"]) == ("queued", pool)
    own = {"kind": "noop", "queued": 1, "running": 0, "queued_of_all": 1, "running_of_all": 0}
    found = shown(visitor, pool)
    assert (found["workers"], found["load"]) == ([], [own])


def test_a_pool_shows_its_living_workers_with_what_they_run(database: Database, visitor: Visitor, pool: str) -> None:
    with database.transaction() as session:
        gpu: dict[str, Any] = {"pool": pool, "device": Device.GPU, "kinds": ["inference"], "slots": 2}
        one = workers.register(session, name="one", gpus=["NVIDIA H200"], **gpu)
        session.execute(update(Worker).where(Worker.id == one).values(self_test={"attention": "sdpa"}))
        two = rows.worker(session, pool=pool, kinds=["noop", "conversion"])
        workers.drain(session, two, draining=True)
        rows.worker(session, pool=pool, seconds_silent=3600)
        leases.claim(session, one, [rows.dispatched(session, visitor.team, pool=pool, kind="inference")], 30)
    first, second = shown(visitor, pool)["workers"]
    assert (first["id"], first["name"], first["device"], first["kinds"]) == (str(one), "one", "gpu", ["inference"])
    assert (first["slots"], first["running"], first["draining"], first["gpus"]) == (2, 1, False, ["NVIDIA H200"])
    assert (first["self_test"], 0 <= first["silent_seconds"] < 10) == ({"attention": "sdpa"}, True)
    assert (second["id"], second["running"], second["draining"]) == (str(two), 0, True)


def test_a_pool_shows_what_waits_and_runs_of_ones_own_team_and_of_all(
    database: Database, join: Join, pool: str
) -> None:
    owner, neighbour = join(), join()
    with database.transaction() as session:
        later: dict[str, Any] = {"rung_at": datetime.now(UTC), "available_at": datetime.now(UTC) + timedelta(hours=1)}
        rows.queued(session, owner.team, pool=pool)
        rows.queued(session, owner.team, pool=pool, **later)  # it backs off, and waits too
        rows.queued(session, neighbour.team, pool=pool)
        rows.dispatched(session, owner.team, pool=pool)
        pair = rows.dispatched(session, neighbour.team, pool=pool)
        leases.claim(session, rows.worker(session, pool=pool), [pair], 30)
    expected = {"kind": "noop", "queued_of_all": 3, "running_of_all": 2}
    assert shown(owner, pool)["load"] == [{**expected, "queued": 2, "running": 1}]
    assert shown(neighbour, pool)["load"] == [{**expected, "queued": 1, "running": 1}]
    assert shown(join(Role.MEMBER), pool)["load"] == [{**expected, "queued": 0, "running": 0}]


def test_a_pool_is_made_once_and_a_retry_finds_it(visitor: Visitor) -> None:
    body, once = {"name": f"p{uuid4().hex}"}, {"Idempotency-Key": "once"}
    first, again = (visitor.post("/v1/pools", body, headers=once) for _ in range(2))
    assert (first.status_code, again.json()) == (201, first.json())
    assert first.json()["name"] == body["name"]
    other = visitor.post("/v1/pools", body)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize("name", ["", "Night", "a/b", "-a", "a" * 64])
def test_a_pool_that_no_job_could_name_is_refused(visitor: Visitor, name: str) -> None:
    reply = visitor.post("/v1/pools", {"name": name})
    assert reply.status_code == 422
    assert [error["pointer"] for error in reply.json()["errors"]] == ["/name"]
