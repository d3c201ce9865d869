"""The statements that choose jobs and ring their bells: for whom there is a slot, and whose bell nobody answered."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from sqlalchemy import select, text, update

from db import jobs, leases, queue, workers
from db.clock import from_now
from db.leases import Closing
from db.models import Job, Outcome
from db.session import Database
from tests.db import rows
from tests.db.rows import LEASE
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

# --- bells --------------------------------------------------------------------------------------------------


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


def test_a_job_that_is_to_run_alone_is_rung_so_as_often_as_it_is_rung(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        jobs = [rows.queued(session, owner, alone=alone) for alone in (True, False)]
        rung = queue.dispatch(session, [[job] for job in jobs])
        queue.ring_anew(session, [pair for bell in rung for pair in bell.pairs])
        again = queue.unanswered(session, "default", ["noop"], 600, 10)
    for bells in (rung, again):
        assert {bell.pairs[0][0]: bell.alone for bell in bells} == dict(zip(jobs, (True, False), strict=True))


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
