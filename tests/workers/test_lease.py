"""The thread that keeps leases: what it renews, whom it stops, and when it gives up."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy import update

from control import lifecycle
from control.rules import rules_from
from db import queue, workers
from db.models import Job, JobEvent, Outcome
from db.queue import Pair
from db.session import Database
from tests.system import System, eventually
from vlyard.errors import Cancelled, StaleAttempt, TimeLimitExceeded
from vlyard.jobs.kinds import Device
from workers.lease import LeaseKeeper

LEASE, GRACE = 3.0, 1.0


@pytest.fixture
def worker(system: System) -> UUID:
    """A worker's row, without a process."""
    with system.database.transaction() as session:
        return workers.register(
            session, name="test", pool="default", device=Device.CPU, kinds=["noop"], slots=4, gpus=[]
        )


@contextmanager
def _keeping(database: Database, worker: UUID, lease: float = LEASE) -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper(database, worker, lease, GRACE)
    keeper.start()
    yield keeper
    keeper.stop()


def _claimed(system: System, worker: UUID) -> Pair:
    """A job that the worker has claimed."""
    job = system.submit()
    with system.database.transaction() as session:
        queue.dispatch(session, [[job]])
        claimed = lifecycle.claim(session, worker, [(job, 1)], rules_from(system.settings))
    assert claimed
    return job, 1


def test_a_lease_is_renewed_for_as_long_as_it_is_held(system: System, worker: UUID) -> None:
    with _keeping(system.database, worker) as keeper:
        pair = _claimed(system, worker)
        first = system.job(pair[0]).lease_until
        assert first is not None
        hold = keeper.hold(pair, time.monotonic(), killable=False)
        eventually(lambda: (system.job(pair[0]).lease_until or first) > first)
        hold.check()  # nothing to stop for
        keeper.release(hold)
        let_go = system.job(pair[0]).lease_until
        time.sleep(1.5)
        assert system.job(pair[0]).lease_until == let_go


def test_progress_reaches_the_row_and_the_events(system: System, worker: UUID) -> None:
    with _keeping(system.database, worker) as keeper:
        pair = _claimed(system, worker)
        hold = keeper.hold(pair, time.monotonic(), killable=False)
        hold.tell(0.5, "half way")
        eventually(lambda: system.job(pair[0]).progress == {"fraction": 0.5, "text": "half way"})
    with system.database.transaction() as session:
        (event,) = session.query(JobEvent).filter_by(job_id=pair[0], type="progress")
        assert event.data == {"fraction": 0.5, "text": "half way"}


def test_the_newest_of_what_was_measured_since_the_last_beat_reaches_the_events(system: System, worker: UUID) -> None:
    def told() -> list[dict[str, object]]:
        with system.database.transaction() as session:
            return [row.data for row in session.query(JobEvent).filter_by(job_id=pair[0], type="metrics")]

    with _keeping(system.database, worker) as keeper:
        pair = _claimed(system, worker)
        hold = keeper.hold(pair, time.monotonic(), killable=False)
        for step in range(100):
            hold.note({"step": step})
        eventually(told)
        assert told() == [{"step": 99}]
        hold.note({"step": 100})
        eventually(lambda: told() == [{"step": 99}, {"step": 100}])
        # and what only an older one says, such as a score, is not lost
        scored: dict[str, object] = {"step": 101, "held_out_loss": 0.5}
        for noted in (scored, {"step": 102}, {"step": 103}):
            hold.note(noted)
        eventually(lambda: told()[2:] == [scored, {"step": 103}])


def test_a_cancelled_jobs_handler_is_told_within_a_beat(system: System, worker: UUID) -> None:
    caller = system.caller()
    with _keeping(system.database, worker) as keeper:
        pair = _claimed(system, worker)
        hold = keeper.hold(pair, time.monotonic(), killable=False)
        system.cancel(caller, pair[0])
        eventually(lambda: hold.stop_reason is not None, seconds=10)
        with pytest.raises(Cancelled):
            hold.check()


def test_a_handler_over_its_time_limit_is_told(system: System, worker: UUID) -> None:
    with _keeping(system.database, worker) as keeper:
        pair = _claimed(system, worker)
        hold = keeper.hold(pair, time.monotonic(), killable=False)
        hold.start(0.5)
        eventually(lambda: hold.stop_reason is not None, seconds=10)
        with pytest.raises(TimeLimitExceeded):
            hold.check()


def test_the_time_limit_stands_still_while_a_handler_prepares_and_what_its_user_gave_it_does_not(
    system: System, worker: UUID
) -> None:
    with _keeping(system.database, worker) as keeper:
        patient, hurried = (keeper.hold(_claimed(system, worker), time.monotonic(), killable=False) for _ in range(2))
        patient.start(0.5)
        hurried.start(0.5, in_all_seconds=1.0)
        with patient.preparing(), hurried.preparing():
            eventually(lambda: isinstance(hurried.stop_reason, TimeLimitExceeded), seconds=10)
            assert patient.stop_reason is None
        eventually(lambda: isinstance(patient.stop_reason, TimeLimitExceeded), seconds=10)


def test_an_attempt_that_was_given_to_another_is_stopped(system: System, worker: UUID) -> None:
    with _keeping(system.database, worker) as keeper:
        pair = _claimed(system, worker)
        hold = keeper.hold(pair, time.monotonic(), killable=False)
        with system.database.transaction() as session:
            session.execute(update(Job).where(Job.id == pair[0]).values(attempt=2))
        eventually(lambda: hold.stop_reason is not None, seconds=10)
        with pytest.raises(StaleAttempt):
            hold.check()


def test_a_worker_without_its_database_stops_its_work_before_the_lease_is_over(system: System, worker: UUID) -> None:
    # given a keeper whose database is not there, and an attempt claimed just before
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing", connections=1)
    claimed_at = time.monotonic()
    with _keeping(nowhere, worker) as keeper:
        hold = keeper.hold((worker, 1), claimed_at, killable=False)
        # then it fences itself after two thirds of the lease, and before its end
        eventually(lambda: hold.stop_reason is not None, seconds=30)
        assert isinstance(hold.stop_reason, StaleAttempt)
        assert hold.stopped_at - claimed_at > LEASE * 2 / 3


def test_a_process_whose_handler_does_not_stop_ends_itself(system: System, worker: UUID) -> None:
    # given a process that holds an attempt in a thread that never looks at its context
    program = f"""
import time
from db.session import Database
from workers.lease import LeaseKeeper
from uuid import UUID
database = Database({system.settings.database_url.get_secret_value()!r}, connections=1)
keeper = LeaseKeeper(database, UUID({str(worker)!r}), 0.5, 0.5)
keeper.start()
keeper.hold((UUID({str(worker)!r}), 1), time.monotonic(), killable=False)
time.sleep(120)
"""
    # when its attempt is no longer its own, then the watchdog ends the process
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert ended.returncode == 70


def test_when_a_handler_began_reaches_the_row_of_a_bundles_member(system: System, worker: UUID) -> None:
    # given two jobs that share a message, of which one has begun
    first, second = system.submit(), system.submit()
    with system.database.transaction() as session:
        queue.dispatch(session, [[first, second]])
        lifecycle.claim(session, worker, [(first, 1), (second, 1)], rules_from(system.settings))
    assert system.job(first).started_at is None
    with _keeping(system.database, worker) as keeper:
        now = time.monotonic()
        hold = keeper.hold((first, 1), now, killable=False)
        keeper.hold((second, 1), now, killable=False)
        hold.start(60)
        # then its row says so within a beat, and the other's does not
        eventually(lambda: system.job(first).started_at is not None, seconds=10)
        assert system.job(second).started_at is None


def test_an_attempt_that_is_over_is_left_alone_while_others_of_its_message_run(system: System, worker: UUID) -> None:
    # given two attempts of one message, of which the first has ended
    with _keeping(system.database, worker, lease=0.5) as keeper:
        first, second = _claimed(system, worker), _claimed(system, worker)
        now = time.monotonic()
        over = keeper.hold(first, now, killable=False)
        running = keeper.hold(second, now, killable=False)
        keeper.release(over)
        done = lifecycle.Ending(first, Outcome.SUCCEEDED, result={})
        with system.database.transaction() as session:
            lifecycle.finish(session, worker, [done], rules_from(system.settings))
        # when the second goes on for longer than a lease and the grace
        time.sleep(0.5 + GRACE + 1)
        # then nobody stops the first, and the watchdog does not take it for one that hangs
        assert over.stop_reason is None
        running.check()
