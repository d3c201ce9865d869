"""Dispatchers killed at the worst moment, and several at once: no job is lost, none has two results."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select
from uuid_utils.compat import uuid7

from control.wakeup import Channel
from db.models import Attempt, Job, Outcome, Worker
from tests.faults.breaking import Servers
from tests.system import System, eventually
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

SLOTS = 2  # of each worker
SEATS = 5 * SLOTS  # with the messages of short jobs that may wait for each slot


def test_jobs_whose_dispatcher_was_killed_between_commit_and_message_run_in_their_first_attempt(
    breakable: System, own_servers: Servers
) -> None:
    # given a worker that listens, a dispatcher that has not sent anything yet, and a Redis that does not answer
    caller = breakable.caller()
    breakable.start_worker(name="worker")
    own_servers.await_listener()
    breakable.start_dispatcher("first")
    with own_servers.frozen("valkey"):
        jobs = [breakable.submit(caller, echo=str(number)) for number in range(5)]
        # when the dispatcher is killed after its commit, while it waits for Redis to take the messages
        eventually(lambda: all(breakable.job(job).state is State.DISPATCHED for job in jobs))
        breakable.kill("first")
    with own_servers.redis() as connection:
        assert not list(connection.scan_iter(f"{breakable.settings.redis_prefix}cpu.*"))
    assert all(breakable.job(job).state is State.DISPATCHED for job in jobs)
    # then the next dispatcher rings again, and each job runs once, in its first attempt
    breakable.start_dispatcher("second")
    for number, job in enumerate(jobs):
        assert breakable.ended(job).result == {"artefacts": {}, "echo": str(number), "attempt": 1}
        assert [attempt.outcome for attempt in breakable.attempts(job)] == [Outcome.SUCCEEDED]


def test_two_dispatchers_are_as_one_though_workers_die_under_them(system: System) -> None:
    # given two workers, two dispatchers, and many jobs of which each takes a slot of its own
    for name in ("staying", "dying"):
        system.start_worker(Device.CPU, "--slots", str(SLOTS), name=name)
    with _watched(system) as most:
        jobs = _queue_alone(system, 120, seconds=0.05)
        for name in ("one", "other"):
            system.start_dispatcher(name)
        system.bell.strike(Channel.WORK)
        # when a worker is killed in the middle, so that both have attempts to close
        eventually(lambda: _count(system, State.SUCCEEDED) > len(jobs) / 4, what="a quarter of the jobs")
        system.kill("dying")
        eventually(lambda: _count(system, State.SUCCEEDED) == len(jobs), 90, "the end of all jobs")
    # then no more messages were ever under way than there are seats
    assert SLOTS < max(most) <= 2 * SEATS
    # and each job has one result, and one more attempt only where the dead worker had it: in a slot, or done and not
    # yet told
    attempts: dict[UUID, list[Any]] = {job: [] for job in jobs}
    with system.database.transaction() as session:
        dead = session.scalars(select(Worker.id).where(Worker.name.startswith("dying@"))).one()
        for attempt in session.scalars(select(Attempt).order_by(Attempt.number)):
            attempts[attempt.job_id].append((attempt.outcome, attempt.worker_id == dead))
    again = [each for each in attempts.values() if len(each) > 1]
    assert again
    assert again == [[(Outcome.LOST, True), (Outcome.SUCCEEDED, False)]] * len(again)
    assert all(each[-1][0] == Outcome.SUCCEEDED for each in attempts.values())


def _queue_alone(system: System, count: int, **spec: Any) -> list[UUID]:
    """Queue no-ops that are not put together in bundles: each is of another team."""
    ids = [uuid7() for _ in range(count)]
    rows = [
        {
            "id": id,
            "team_id": system.caller(f"team-{number}").team,
            "kind": "noop",
            "pool": "default",
            "device": Device.CPU,
            "spec": {"kind": "noop", **spec},
            "state": State.QUEUED,
            "max_attempts": 3,
        }
        for number, id in enumerate(ids)
    ]
    with system.database.transaction() as session:
        session.execute(insert(Job), rows)
    return ids


@contextmanager
def _watched(system: System) -> Iterator[list[int]]:
    """How many messages were under way, whenever somebody looked."""
    seen = [0]
    over = threading.Event()
    under_way = select(func.count(func.coalesce(Job.bundle, Job.id).distinct())).where(
        Job.state.in_([State.DISPATCHED, State.RUNNING])
    )

    def watch() -> None:
        while not over.is_set():
            with system.database.transaction() as session:
                seen.append(session.scalar(under_way) or 0)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _count(system: System, state: State) -> int:
    with system.database.transaction() as session:
        return session.scalar(select(func.count()).where(Job.state == state)) or 0
