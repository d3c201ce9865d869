"""The dispatcher: late, never more than fits, once for each attempt, and patient with Redis."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import func, select, update

from control import lifecycle
from control.dispatcher import Dispatcher, Tick
from control.lifecycle import Ending
from control.queue import Doorbells
from control.rules import rules_from
from control.settings import Settings
from db import queue, workers
from db.clock import from_now
from db.models import Job, JobEvent, Outcome
from tests.db import rows
from tests.system import System, eventually
from vlyard.errors import Unavailable
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

# Long times, so that nothing is silent, expired or unanswered unless a test makes it so.
pytestmark = pytest.mark.settings(LEASE_SECONDS="600", RING_AFTER_SECONDS="600")

NOTHING = Tick(reaped=0, rung=0)
CLOSED_REDIS = "redis://127.0.0.1:1/0"


def dispatcher(vlyard: System, **changes: Any) -> Dispatcher:
    settings: Settings = vlyard.settings.model_copy(update=changes)
    return Dispatcher(vlyard.database, Doorbells(settings), settings, rules_from(settings))


@pytest.fixture
def server(vlyard: System) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(vlyard.settings.redis_url.get_secret_value()) as connection:
        yield connection


@pytest.fixture
def team(vlyard: System) -> UUID:
    with vlyard.database.transaction() as session:
        return rows.team(session)


def hire(vlyard: System, **facts: Any) -> UUID:
    with vlyard.database.transaction() as session:
        return rows.worker(session, **facts)


def submit(vlyard: System, team: UUID, count: int = 1, **columns: Any) -> list[UUID]:
    with vlyard.database.transaction() as session:
        return [rows.queued(session, team, **columns) for _ in range(count)]


def states(vlyard: System) -> Counter[State]:
    with vlyard.database.transaction() as session:
        return Counter(session.scalars(select(Job.state)))


def events(vlyard: System, job: UUID) -> list[tuple[int, str, dict[str, Any]]]:
    with vlyard.database.transaction() as session:
        return rows.events(session, job)


def rung_long_ago(vlyard: System) -> None:
    with vlyard.database.transaction() as session:
        session.execute(update(Job).values(rung_at=from_now(-3600)))


def messages(vlyard: System, server: "redis.Redis", name: str = "cpu.default.noop") -> list[tuple[str, list[Any]]]:
    """What lies in a queue, the oldest last: (task, arguments)."""
    lines: Any = server.lrange(f"{vlyard.settings.redis_prefix}{name}", 0, -1)
    found = []
    for line in lines:
        message = json.loads(line)
        arguments, named, _ = json.loads(base64.b64decode(message["body"]))
        assert named == {}
        found.append((message["headers"]["task"], arguments))
    return found


# --- when and where -------------------------------------------------------------------------------------------


def test_jobs_wait_in_the_database_while_no_worker_lives(vlyard: System, server: "redis.Redis", team: UUID) -> None:
    hire(vlyard, seconds_silent=3600)
    hire(vlyard, pool="elsewhere")
    submit(vlyard, team, 3)
    assert dispatcher(vlyard).tick() == NOTHING
    assert states(vlyard) == {State.QUEUED: 3}
    assert messages(vlyard, server) == []


def test_a_message_carries_a_job_and_an_attempt_and_nothing_else(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    hire(vlyard)
    [job] = submit(vlyard, team)
    assert dispatcher(vlyard).tick() == Tick(reaped=0, rung=1)
    assert messages(vlyard, server) == [("noop", [str(job), 1])]


def test_no_more_jobs_are_dispatched_than_slots_are_free(vlyard: System, team: UUID) -> None:
    # given a worker with two slots, and five jobs
    worker = hire(vlyard, slots=2)
    submit(vlyard, team, 5)
    one = dispatcher(vlyard)
    # when both slots are taken, nothing more is dispatched
    assert one.tick().rung == 2
    assert one.tick() == NOTHING
    with vlyard.database.transaction() as session:
        pair = session.execute(select(Job.id, Job.attempt).where(Job.state == State.DISPATCHED).limit(1)).one()
        queue.claim(session, worker, [(pair.id, pair.attempt)], 600)
    assert one.tick() == NOTHING
    # then one that ends makes room for one
    with vlyard.database.transaction() as session:
        done = Ending((pair.id, pair.attempt), Outcome.SUCCEEDED, result={})
        lifecycle.finish(session, worker, done, rules_from(vlyard.settings))
    assert one.tick().rung == 1
    assert states(vlyard) == {State.SUCCEEDED: 1, State.DISPATCHED: 2, State.QUEUED: 2}


def test_a_gpu_kind_never_reaches_a_cpu_queue(vlyard: System, server: "redis.Redis", team: UUID) -> None:
    hire(vlyard, kinds=["noop", "conversion"], slots=8)
    submit(vlyard, team, kind="inference")
    submit(vlyard, team, kind="noop")
    one = dispatcher(vlyard)
    assert one.tick().rung == 1
    assert one.tick() == NOTHING
    hire(vlyard, kinds=["inference"], device=Device.GPU)
    assert one.tick().rung == 1
    assert [task for task, _ in messages(vlyard, server, "gpu.default.inference")] == ["inference"]
    assert [task for task, _ in messages(vlyard, server, "cpu.default.noop")] == ["noop"]
    assert messages(vlyard, server, "cpu.default.inference") == []


def test_each_pools_jobs_go_to_its_own_workers(vlyard: System, server: "redis.Redis", team: UUID) -> None:
    hire(vlyard, pool="east")
    hire(vlyard, pool="west")
    [east], [west] = submit(vlyard, team, pool="east"), submit(vlyard, team, pool="west")
    assert dispatcher(vlyard).tick().rung == 2
    assert messages(vlyard, server, "cpu.east.noop") == [("noop", [str(east), 1])]
    assert messages(vlyard, server, "cpu.west.noop") == [("noop", [str(west), 1])]


def test_jobs_that_were_sent_to_a_worker_that_left_hold_up_no_other_kind(vlyard: System, team: UUID) -> None:
    # given four conversions that were dispatched to a worker that ended before it claimed them
    leaving = hire(vlyard, kinds=["conversion"], slots=4)
    submit(vlyard, team, 4, kind="conversion")
    one = dispatcher(vlyard)
    assert one.tick().rung == 4
    with vlyard.database.transaction() as session:
        workers.end(session, leaving)
    # when a smaller worker is left for conversions, and one for other jobs
    hire(vlyard, kinds=["conversion"], slots=1)
    hire(vlyard, kinds=["noop"], slots=2)
    submit(vlyard, team, kind="noop")
    # then the other job does not wait for the conversions
    assert one.tick().rung == 1


def test_an_expired_attempt_is_closed_and_the_next_one_dispatched_in_the_same_tick(vlyard: System, team: UUID) -> None:
    worker = hire(vlyard)
    with vlyard.database.transaction() as session:
        job, _ = rows.running(session, team, worker, lease=-1)
    assert dispatcher(vlyard).tick() == Tick(reaped=1, rung=1)
    assert (vlyard.job(job).state, vlyard.job(job).attempt) == (State.DISPATCHED, 2)


# --- bells that nobody hears ----------------------------------------------------------------------------------


def test_a_bell_that_nobody_answered_is_rung_again_with_the_same_attempt(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    hire(vlyard)
    [job] = submit(vlyard, team)
    one = dispatcher(vlyard)
    one.tick()
    assert one.tick() == NOTHING  # not yet
    rung_long_ago(vlyard)
    assert one.tick().rung == 1
    assert one.tick() == NOTHING
    assert messages(vlyard, server) == [("noop", [str(job), 1])] * 2
    assert [data["state"] for _, _, data in events(vlyard, job)] == ["queued", "dispatched"]


def test_jobs_are_kept_while_redis_is_away_and_rung_when_it_is_back(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    hire(vlyard, slots=2)
    submitted = submit(vlyard, team, 3)
    with pytest.raises(Unavailable, match="Redis"):
        dispatcher(vlyard, redis_url=type(vlyard.settings.redis_url)(CLOSED_REDIS)).tick()
    assert states(vlyard) == {State.DISPATCHED: 2, State.QUEUED: 1}
    # when Redis is back, and the bells are due again
    rung_long_ago(vlyard)
    assert dispatcher(vlyard).tick().rung == 2
    assert sorted(messages(vlyard, server)) == sorted(("noop", [str(job), 1]) for job in submitted[:2])


# --- many, and for long ---------------------------------------------------------------------------------------


def test_two_dispatchers_ring_each_job_once_and_never_exceed_the_slots(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    # given 200 jobs, a worker with 25 slots, and two dispatchers
    slots = 25
    worker = hire(vlyard, slots=slots)
    submitted = submit(vlyard, team, 200)
    rules, over = rules_from(vlyard.settings), threading.Event()

    def dispatch(_: int) -> int:
        one, rung = dispatcher(vlyard), 0
        while not over.is_set():
            rung += one.tick().rung
        return rung

    def work() -> int:
        """Run what is dispatched; returns the most slots that were ever taken."""
        most = 0
        while True:
            with vlyard.database.transaction() as session:
                waiting = session.execute(select(Job.id, Job.attempt).where(Job.state == State.DISPATCHED)).all()
                most = max(most, len(waiting))
                for claimed in queue.claim(session, worker, [(row.id, row.attempt) for row in waiting], 600):
                    done = Ending((claimed.job, claimed.attempt), Outcome.SUCCEEDED, result={})
                    lifecycle.finish(session, worker, done, rules)
                if not session.scalar(select(func.count()).where(Job.state != State.SUCCEEDED)):
                    return most

    with ThreadPoolExecutor(2) as threads:
        rung = [threads.submit(dispatch, number) for number in range(2)]
        try:
            most = work()
        finally:
            over.set()
        # then each job was rung once, by one of them, and the slots were used and never exceeded
        assert sum(future.result() for future in rung) == 200
    assert Counter(job for _, (job, _) in messages(vlyard, server)) == Counter(map(str, submitted))
    assert 1 < most <= slots
    with vlyard.database.transaction() as session:
        moves = session.execute(
            select(JobEvent.job_id, func.count())
            .where(JobEvent.data["state"].astext == "dispatched")
            .group_by(JobEvent.job_id)
        ).all()
    assert {count for _, count in moves} == {1}


def test_a_running_dispatcher_hears_of_jobs_and_outlives_an_outage_of_redis(
    vlyard: System, server: "redis.Redis", team: UUID
) -> None:
    hire(vlyard)
    # given a dispatcher that never looks by itself, and has no Redis
    one = dispatcher(vlyard, poll_seconds=3600.0, redis_url=type(vlyard.settings.redis_url)(CLOSED_REDIS))
    thread = threading.Thread(target=one.run)
    thread.start()
    # when a job is submitted
    vlyard.submit()
    # then it is dispatched because of the wake-up, and the outage ends nothing
    eventually(lambda: states(vlyard)[State.DISPATCHED], what="the dispatch")
    assert thread.is_alive()
    one.stop()
    thread.join(30)
    assert not thread.is_alive()
