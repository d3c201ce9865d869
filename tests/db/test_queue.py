"""The statements that move jobs: whoever wins the UPDATE has the job, and everybody else has nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update

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


def test_a_job_that_is_to_run_alone_is_rung_so_as_often_as_it_is_rung(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        jobs = [rows.queued(session, owner, alone=alone) for alone in (True, False)]
        rung = queue.dispatch(session, [[job] for job in jobs])
        queue.ring_anew(session, [pair for bell in rung for pair in bell.pairs])
        again = queue.unanswered(session, "default", ["noop"], 600, 10)
    for bells in (rung, again):
        assert {bell.pairs[0][0]: bell.alone for bell in bells} == dict(zip(jobs, (True, False), strict=True))


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


# --- dispatching ----------------------------------------------------------------------------------------------


def test_only_what_is_queued_is_dispatched_with_its_next_attempt(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        fresh, again = rows.queued(session, owner), rows.queued(session, owner, attempt=4)
        others = [rows.running(session, owner, worker)[0], rows.dispatched(session, owner)[0], uuid4()]
        cancelled = rows.queued(session, owner)
        jobs.cancel_waiting(session, owner, cancelled)
        bells = queue.dispatch(session, [[job] for job in (fresh, again, cancelled, *others)])
    assert {bell.pairs for bell in bells} == {((fresh, 1),), ((again, 5),)}
    assert {bell.name for bell in bells} == {f"{fresh}:1", f"{again}:5"}
    assert {(bell.pool, bell.kind) for bell in bells} == {("default", "noop")}


def test_jobs_that_are_dispatched_together_share_one_named_bell(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        first, second, lone = (rows.queued(session, owner) for _ in range(3))
        bells = queue.dispatch(session, [[first, second], [lone]])
        bundles = dict(session.execute(select(Job.id, Job.bundle)).all())
    shared, own = sorted(bells, key=lambda bell: -len(bell.pairs))
    assert sorted(shared.pairs) == [(first, 1), (second, 1)]
    assert own.pairs == ((lone, 1),)
    assert bundles == {first: shared.bundle, second: shared.bundle, lone: None}
    assert (shared.name, own.name) == (f"bundle:{shared.bundle}", f"{lone}:1")


def test_a_job_that_is_dispatched_again_is_of_its_new_bundle_alone(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pairs = rows.running_bundle(session, owner, worker, 2)
        held = leases.lock_held(session, worker, pairs)
        leases.end_attempts(session, [Closing(job, Outcome.LOST, State.QUEUED, failures=0) for job in held])
        assert session.scalars(select(Job.bundle)).all() == [None, None]
        [bell, _] = queue.dispatch(session, [[job] for job, _ in pairs])
        assert bell.bundle is None


def test_an_unanswered_bundle_is_one_bell_again(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        pairs, lone = rows.bundle(session, owner, 3), rows.dispatched(session, owner)
        session.execute(update(Job).values(rung_at=from_now(-60)))
        again = queue.unanswered(session, "default", ["noop"], 5, 10)
    assert sorted(sorted(bell.pairs) for bell in again) == sorted([pairs, [lone]])


def test_two_transactions_that_dispatch_a_job_ring_one_bell(database: Database) -> None:
    with database.transaction() as session:
        job = rows.queued(session, rows.team(session))

    def dispatch(_: int) -> int:
        with database.transaction() as session:
            return len(queue.dispatch(session, [[job]]))

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(dispatch, range(4))) == 1


def test_a_bell_is_unanswered_only_after_a_while_and_then_counts_as_rung(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        pair, early = rows.dispatched(session, owner), rows.dispatched(session, owner)
        rows.running(session, owner, rows.worker(session))
        session.execute(update(Job).where(Job.id != early[0]).values(rung_at=from_now(-60)))
        again = queue.unanswered(session, "default", ["noop"], 5, 10)
        assert [bell.pairs for bell in again] == [(pair,)]
        assert queue.unanswered(session, "default", ["noop"], 5, 10) == []


def test_a_bell_in_a_pool_that_another_dispatcher_holds_is_left_to_it(database: Database) -> None:
    with database.transaction() as session:
        rows.dispatched(session, rows.team(session))
        session.execute(update(Job).values(rung_at=from_now(-60)))
        assert queue.unanswered(session, "elsewhere", ["noop"], 5, 10) == []


def test_a_pool_is_decided_about_by_one_dispatcher_while_jobs_are_submitted_to_it(database: Database) -> None:
    with database.transaction() as session:
        rows.worker(session)
    with database.transaction() as first:
        assert list(queue.lock_pools(first, LEASE)) == ["default"]
        with database.transaction() as second:
            assert queue.lock_pools(second, LEASE) == {}
        with database.transaction() as session:  # its foreign key refers to the locked row
            rows.queued(session, rows.team(session))


def test_a_transaction_that_holds_a_pool_does_not_wait_for_the_disk(database: Database) -> None:
    with database.transaction() as session:
        rows.worker(session)
    with database.transaction() as session:
        queue.lock_pools(session, LEASE)
        assert session.scalar(text("SHOW synchronous_commit")) == "off"
    with database.transaction() as session:  # on the same connection
        assert session.scalar(text("SHOW synchronous_commit")) == "on"


def test_waiting_jobs_are_those_of_each_team_and_kind_by_priority_and_age(database: Database) -> None:
    with database.transaction() as session:
        ours, theirs = rows.team(session), rows.team(session)
        first, second = rows.queued(session, ours), rows.queued(session, ours)
        urgent, other = rows.queued(session, ours, priority=5), rows.queued(session, theirs)
        rows.queued(session, ours, kind="inference")  # not asked for
        rows.queued(session, ours, available_at=from_now(60))  # backing off
        rows.dispatched(session, ours)
        found = {job: team for job, team, *_ in queue.waiting(session, "default", {"noop": 2, "conversion": 2})}
        assert found == {urgent: ours, first: ours, other: theirs}
        assert second not in found
        assert queue.waiting(session, "elsewhere", {"noop": 2}) == []


def test_each_kind_that_waits_has_its_own_limit_and_shows_what_may_travel_with_what(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        noops = [rows.queued(session, owner, alone=number == 0) for number in range(4)]
        asked = [rows.queued(session, owner, kind="inference") for _ in range(4)]
        session.execute(update(Job).where(Job.id == asked[0]).values(spec={"kind": "inference", "model": "tuned"}))
        found = queue.waiting(session, "default", {"noop": 3, "inference": 2})
    assert {(job, kind, model, alone) for job, _, kind, _, _, model, alone in found} == {
        (noops[0], "noop", "", True),
        (noops[1], "noop", "", False),
        (noops[2], "noop", "", False),
        (asked[0], "inference", "tuned", False),
        (asked[1], "inference", "", False),
    }


# --- capacity -------------------------------------------------------------------------------------------------


def test_the_slots_are_those_of_living_undrained_workers_of_the_pool(database: Database) -> None:
    with database.transaction() as session:
        rows.worker(session, slots=2)
        rows.worker(session, slots=3)
        rows.worker(session, slots=7, kinds=["noop", "conversion"])
        rows.worker(session, slots=1, kinds=["inference"], device=Device.GPU)
        rows.worker(session, seconds_silent=60)
        rows.worker(session, pool="elsewhere")
        workers.end(session, rows.worker(session))
        workers.drain(session, rows.worker(session), draining=True)
        found = queue.lock_pools(session, LEASE)["default"]
    assert sorted((device, sorted(kinds), slots) for device, kinds, slots in found) == [
        (Device.CPU, ["conversion", "noop"], 7),
        (Device.CPU, ["noop"], 5),
        (Device.GPU, ["inference"], 1),
    ]


def test_slots_are_held_by_dispatched_jobs_and_by_running_ones_of_living_workers(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        living, silent = rows.worker(session), rows.worker(session, seconds_silent=60)
        rows.running(session, owner, living)
        rows.running(session, owner, silent)
        rows.dispatched(session, owner)
        rows.queued(session, owner)
        assert queue.held(session, "default", LEASE) == [(owner, "noop", 2)]


def test_a_bundle_takes_one_slot_until_its_last_job_has_ended(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        rows.bundle(session, owner, 3)
        pairs = rows.running_bundle(session, owner, worker, 3)
        rows.running(session, owner, worker)
        assert queue.held(session, "default", LEASE) == [(owner, "noop", 3)]
        for pair, slots in zip(pairs, (3, 3, 2), strict=True):
            held = leases.lock_held(session, worker, [pair])
            leases.end_attempts(session, [Closing(held[0], Outcome.SUCCEEDED, State.SUCCEEDED, failures=0)])
            assert queue.held(session, "default", LEASE) == [(owner, "noop", slots)]


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
