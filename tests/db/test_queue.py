"""The statements that move jobs: whoever wins the UPDATE has the job, and everybody else has nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update

from db import jobs, leases, queue, workers
from db.clock import from_now
from db.leases import Closing
from db.models import Attempt, Job, Outcome
from db.queue import Pair
from db.session import Database
from tests.db import rows
from tests.db.rows import LEASE
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

# --- claiming -------------------------------------------------------------------------------------------------


def test_a_claimed_job_runs_with_a_lease_on_its_worker(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pair = rows.dispatched(session, owner)
        [claimed] = leases.claim(session, worker, [pair], LEASE)
        job = session.get_one(Job, pair[0])
        [attempt] = session.query(Attempt).filter_by(job_id=pair[0])
        lease = session.scalar(select(func.extract("epoch", Job.lease_until - func.now())))
    assert (claimed.job, claimed.attempt, claimed.team, claimed.kind) == (*pair, owner, "noop")
    assert (job.state, job.worker_id, job.attempt) == (State.RUNNING, worker, 1)
    assert (attempt.number, attempt.worker_id, attempt.ended_at) == (1, worker, None)
    assert lease == pytest.approx(LEASE)


def test_the_same_doorbell_twice_is_claimed_once(database: Database) -> None:
    with database.transaction() as session:
        first, second = rows.worker(session), rows.worker(session)
        pair = rows.dispatched(session, rows.team(session))
        assert leases.claim(session, first, [pair], LEASE)
    with database.transaction() as session:
        assert not leases.claim(session, second, [pair], LEASE)
        assert not leases.claim(session, first, [pair], LEASE)
        assert session.get_one(Job, pair[0]).worker_id == first


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_doorbell_of_another_attempt_claims_nothing(database: Database, difference: int) -> None:
    with database.transaction() as session:
        job, attempt = rows.dispatched(session, rows.team(session))
        assert not leases.claim(session, rows.worker(session), [(job, attempt + difference)], LEASE)
        assert session.get_one(Job, job).state is State.DISPATCHED


def test_what_is_not_dispatched_cannot_be_claimed(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        waiting, cancelled = rows.queued(session, owner), rows.dispatched(session, owner)
        jobs.cancel_waiting(session, owner, cancelled[0])
        assert not leases.claim(session, worker, [(waiting, 0), (waiting, 1), cancelled, (uuid4(), 1)], LEASE)
        assert session.get_one(Job, cancelled[0]).state is State.CANCELLED


def test_eight_threads_that_claim_fifty_jobs_get_each_once(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        pairs = [rows.dispatched(session, owner) for _ in range(50)]
        holders = [rows.worker(session) for _ in range(8)]
    together = threading.Barrier(8)

    def claim_all(worker: UUID) -> list[UUID]:
        together.wait()
        mine: list[UUID] = []
        for pair in pairs:
            with database.transaction() as session:
                mine += [claimed.job for claimed in leases.claim(session, worker, [pair], LEASE)]
        return mine

    with ThreadPoolExecutor(8) as threads:
        claimed = [job for mine in threads.map(claim_all, holders) for job in mine]
    assert sorted(claimed) == sorted(job for job, _ in pairs)
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Attempt)) == 50


def test_of_a_bundle_only_what_is_still_to_be_had_is_claimed(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        free, taken = rows.dispatched(session, owner), rows.running(session, owner, rows.worker(session))
        claimed = leases.claim(session, rows.worker(session), [free, taken], LEASE)
    assert [row.job for row in claimed] == [free[0]]


def test_of_two_workers_that_answer_one_bundle_each_job_has_one(database: Database) -> None:
    with database.transaction() as session:
        pairs = rows.bundle(session, rows.team(session), 30)
        holders = [rows.worker(session) for _ in range(4)]

    def claim(number: int) -> list[UUID]:
        mine = Random(number).sample(pairs, 30)
        with database.transaction() as session:
            return [row.job for row in leases.claim(session, holders[number], mine, LEASE)]

    with ThreadPoolExecutor(4) as threads:
        claimed = [job for mine in threads.map(claim, range(4)) for job in mine]
    assert sorted(claimed) == [job for job, _ in pairs]


def test_a_draining_worker_claims_nothing_and_what_it_heard_of_is_rung_anew_for_others(database: Database) -> None:
    with database.transaction() as session:
        pair, other = rows.dispatched(session, rows.team(session)), rows.worker(session)
        draining = rows.worker(session)
        workers.drain(session, draining, draining=True)
        assert workers.beat(session, draining)
        assert not workers.beat(session, other)
        assert leases.claim(session, draining, [pair], LEASE) == []
        assert queue.unanswered(session, "default", ["noop"], 600, 10) == []
        queue.ring_anew(session, [(pair[0], pair[1] + 1)])  # not this attempt
        assert queue.unanswered(session, "default", ["noop"], 600, 10) == []
        queue.ring_anew(session, [pair])
        assert [bell.pairs for bell in queue.unanswered(session, "default", ["noop"], 600, 10)] == [(pair,)]
        assert leases.claim(session, other, [pair], LEASE)


def test_a_claimed_job_brings_its_own_time_limit(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        pairs = [rows.dispatched(session, owner, max_runtime_seconds=limit) for limit in (2.5, None)]
        claimed = leases.claim(session, rows.worker(session), pairs, LEASE)
    assert {row.job: row.max_runtime_seconds for row in claimed} == {pairs[0][0]: 2.5, pairs[1][0]: None}


# --- holding --------------------------------------------------------------------------------------------------


def test_renewing_returns_what_the_worker_still_holds_and_nothing_else(database: Database) -> None:
    with database.transaction() as session:
        owner, mine, other = rows.team(session), rows.worker(session), rows.worker(session)
        held, asked, theirs = (rows.running(session, owner, holder) for holder in (mine, mine, other))
        jobs.request_cancel(session, owner, asked[0])
        stale = (held[0], held[1] + 1)
        pairs = [held, asked, theirs, stale, (uuid4(), 1), rows.dispatched(session, owner)]
        renewed = leases.renew(session, mine, pairs, 100)
        until = dict(session.execute(select(Job.id, func.extract("epoch", Job.lease_until - func.now()))).all())
    assert {(row.job, row.attempt): row.cancel_requested for row in renewed} == {held: False, asked: True}
    assert until[held[0]] == pytest.approx(100)
    assert until[theirs[0]] == pytest.approx(LEASE)


def test_progress_is_recorded_by_the_attempt_that_holds_the_job_alone(database: Database) -> None:
    with database.transaction() as session:
        holder, stranger = rows.worker(session), rows.worker(session)
        pair = rows.running(session, rows.team(session), holder)
        leases.record_progress(session, stranger, pair, {"fraction": 0.9})
        leases.record_progress(session, holder, (pair[0], pair[1] + 1), {"fraction": 0.9})
        assert session.scalar(select(Job.progress)) is None
        leases.record_progress(session, holder, pair, {"fraction": 0.5})
        assert session.scalar(select(Job.progress)) == {"fraction": 0.5}


def test_only_expired_leases_are_offered_to_the_reaper_and_each_to_one(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        rows.running(session, owner, worker)
        rows.dispatched(session, owner)
        expired, _ = rows.running(session, owner, worker, lease=-1)
    with database.transaction() as first, database.transaction() as second:
        assert [held.job for held in leases.lock_expired(first, 10)] == [expired]
        assert leases.lock_expired(second, 10) == []


# --- what is written down -------------------------------------------------------------------------------------


def test_every_move_writes_one_event_with_the_next_number(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pair = rows.running(session, owner, worker)
        leases.record_progress(session, worker, pair, {"fraction": 0.5, "text": "half"})
        jobs.request_cancel(session, owner, pair[0])
        [held] = leases.lock_held(session, worker, [pair])
        leases.end_attempts(session, [Closing(held, Outcome.LOST, State.QUEUED, failures=0)])
        queue.dispatch(session, [[pair[0]]])
        jobs.cancel_waiting(session, owner, pair[0])
        written = rows.events(session, pair[0])
        last = session.scalar(select(Job.last_event))
    assert [seq for seq, _, _ in written] == list(range(1, 9))
    assert last == 8
    assert [(type, data.get("state", data.get("text"))) for _, type, data in written] == [
        ("state", "queued"),
        ("state", "dispatched"),
        ("state", "running"),
        ("progress", "half"),
        ("state", "running"),
        ("state", "queued"),
        ("state", "dispatched"),
        ("state", "cancelled"),
    ]


def test_what_changes_nothing_writes_nothing(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pair: Pair = rows.running(session, owner, worker)
        before = rows.events(session, pair[0])
        leases.claim(session, worker, [pair], LEASE)
        queue.dispatch(session, [[pair[0]]])
        leases.renew(session, worker, [pair], LEASE)
        jobs.cancel_waiting(session, owner, pair[0])
        assert rows.events(session, pair[0]) == before


@pytest.mark.parametrize(("device", "kind"), [(Device.GPU, "inference"), (Device.CPU, "noop")])
def test_only_time_on_a_gpu_is_counted(database: Database, device: Device, kind: str) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        pair = rows.running(session, rows.team(session), worker, kind=kind)
        session.execute(update(Attempt).values(started_at=from_now(-90)))
        [held] = leases.lock_held(session, worker, [pair])
        leases.end_attempts(session, [Closing(held, Outcome.SUCCEEDED, State.SUCCEEDED, failures=0)])
        seconds = session.scalar(select(Attempt.gpu_seconds))
    assert seconds == pytest.approx(90 if device is Device.GPU else 0)
