"""Jobs that share a message: lost together, they are tried one by one; ended together, each has its own ending."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control import lifecycle
from control.failures import failure_of
from control.lifecycle import Ending, Rules
from control.retrying import Backoff
from db import leases, queue
from db.clock import from_now
from db.models import Artefact, Attempt, Job, Outcome
from db.queue import Pair
from db.session import Database
from tests.control.locks import waiting_for_locks
from tests.db import rows
from tests.system import System, eventually
from vlyard.errors import Cancelled, DiskFull, InvalidInput
from vlyard.jobs.state import State

RULES = Rules(lease_seconds=30, backoff=Backoff(0, 0), rng=Random(1))


@pytest.fixture
def database(vlyard: System) -> Database:
    return vlyard.database


def jobs_of(session: Session, pairs: Sequence[Pair]) -> list[Job]:
    session.expire_all()
    return [session.get_one(Job, job) for job, _ in pairs]


def run_alone(session: Session, worker: UUID, job: UUID, lease: float) -> Pair:
    [bell] = queue.dispatch(session, [[job]])
    assert leases.claim(session, worker, bell.pairs, lease)
    [pair] = bell.pairs
    return pair


def seconds_since(session: Session, job: UUID) -> Any:
    """How long ago the job's handler began, as the job's row has it."""
    return session.scalar(select(func.extract("epoch", func.now() - Job.started_at)).where(Job.id == job))


# --- lost -----------------------------------------------------------------------------------------------------


def test_jobs_that_are_lost_in_company_are_queued_alone_and_nothing_is_held_against_them(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pairs = rows.running_bundle(session, owner, worker, 4, lease=-1)
        assert lifecycle.reap(session, RULES) == 4
        for job in jobs_of(session, pairs):
            assert (job.state, job.failures, job.alone, job.bundle) == (State.QUEUED, 0, True, None)
            assert (job.worker_id, job.started_at, job.finished_at) == (None, None, None)
        lost = session.scalars(select(Attempt.outcome)).all()
        assert lost == [Outcome.LOST] * 4
        # at once, each one marked
        waiting = queue.waiting(session, "default", {"noop": 9})
        assert [(row[0], row[6]) for row in waiting] == [(job, True) for job, _ in pairs]


def test_what_had_ended_before_its_company_was_lost_stays_ended(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        done, *left = rows.running_bundle(session, owner, worker, 3, lease=-1)
        lifecycle.finish(session, worker, [Ending(done, Outcome.SUCCEEDED, result={"echo": "done"})], RULES)
        assert lifecycle.reap(session, RULES) == 2
        first, *others = jobs_of(session, [done, *left])
        assert (first.state, first.result, first.bundle) == (State.SUCCEEDED, {"echo": "done"}, None)
        assert {job.state for job in others} == {State.QUEUED}


def test_a_job_that_is_lost_alone_counts_and_fails_after_its_last_attempt(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        # given a poison job that was lost in company, which is not counted
        [(poison, _), (victim, _)] = rows.running_bundle(session, owner, worker, 2, lease=-1)
        lifecycle.reap(session, RULES)
        # when it is lost by itself, as often as it may (three times)
        for failures, state in ((1, State.QUEUED), (2, State.QUEUED), (3, State.FAILED)):
            pair = run_alone(session, worker, poison, lease=-1)
            assert pair[1] == failures + 1
            assert lifecycle.reap(session, RULES) == 1
            [job] = jobs_of(session, [pair])
            assert (job.state, job.failures) == (state, failures)
            assert job.alone or state is State.FAILED
        # then it has failed for that reason, and its companion goes on
        assert job.error is not None
        assert job.error["code"] == "worker_lost"
        pair = run_alone(session, worker, victim, lease=30)
        assert lifecycle.finish(session, worker, [Ending(pair, Outcome.SUCCEEDED)], RULES) == {pair: State.SUCCEEDED}


def test_what_a_worker_is_lost_with_is_company_whatever_message_it_came_in_and_whenever_it_is_looked_at(
    database: Database,
) -> None:
    # given a worker that was lost with three jobs of as many messages, whose leases did not run out together
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pairs = [rows.running(session, owner, worker) for _ in range(3)]
    # when they are closed one after the other, each in a transaction of its own
    for job, _ in pairs:
        with database.transaction() as session:
            session.execute(update(Job).where(Job.id == job).values(lease_until=from_now(-1)))
            assert lifecycle.reap(session, RULES) == 1
    # then none is charged with it, and each has to show by itself that it was not why
    with database.transaction() as session:
        found = [(job.state, job.failures, job.alone) for job in jobs_of(session, pairs)]
    assert found == [(State.QUEUED, 0, True)] * 3


def test_what_a_worker_lost_or_ended_before_it_took_a_job_is_no_company(database: Database) -> None:
    # given a worker that has lost a job, but lives, and has ended one of the same message as its last
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        rows.running(session, owner, worker, lease=-1)
        lifecycle.reap(session, RULES)
    with database.transaction() as session:
        done, last = rows.running_bundle(session, owner, worker, 2)
        lifecycle.finish(session, worker, [Ending(done, Outcome.SUCCEEDED)], RULES)
        session.execute(update(Job).where(Job.id == last[0]).values(lease_until=from_now(-1)))
    # when it is lost with that one
    with database.transaction() as session:
        lifecycle.reap(session, RULES)
        # then there was nothing else that could be why
        [job] = jobs_of(session, [last])
        assert (job.state, job.failures) == (State.QUEUED, 1)


class Beside(NamedTuple):
    """A job that a worker holds as well."""

    alone: bool
    minutes_ago: float = 0  # claimed


@pytest.mark.parametrize(
    ("job", "beside", "failures"),
    [
        pytest.param(Beside(alone=False), [], 1, id="nothing else"),
        pytest.param(Beside(alone=False), [Beside(alone=False)], 0, id="both have only begun"),
        pytest.param(Beside(alone=False, minutes_ago=60), [Beside(alone=False)], 0, id="one has run for long"),
        pytest.param(Beside(alone=False, minutes_ago=60), [Beside(alone=True)], 0, id="the other is on probation"),
        pytest.param(Beside(alone=True), [Beside(alone=False, minutes_ago=60)], 1, id="it is on probation"),
        pytest.param(Beside(alone=True, minutes_ago=60), [Beside(alone=True)], 0, id="it has stood its probation"),
        pytest.param(Beside(alone=True, minutes_ago=60), [Beside(alone=False)], 1, id="it was let off before"),
        pytest.param(Beside(alone=True, minutes_ago=60), [Beside(alone=True, minutes_ago=60)], 1, id="both were"),
    ],
)
def test_of_several_that_a_worker_is_lost_with_the_one_on_probation_is_charged(
    database: Database, job: Beside, beside: Sequence[Beside], failures: int
) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pairs = []
        for each in (job, *beside):
            pairs.append(rows.running(session, owner, worker, alone=each.alone))
            held = update(Job).where(Job.id == pairs[-1][0])
            session.execute(held.values(claimed_at=from_now(-60 * each.minutes_ago), lease_until=from_now(-1)))
        lifecycle.reap(session, RULES)
        lost = jobs_of(session, pairs)
        assert lost[0].failures == failures
        assert all(each.alone for each in lost)


def test_what_is_given_back_before_it_could_show_that_it_is_harmless_still_runs_alone(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        suspect, other = (rows.running(session, owner, worker, alone=alone) for alone in (True, False))
        given_back = [Ending(pair, Outcome.RELEASED) for pair in (suspect, other)]
        lifecycle.finish(session, worker, given_back, RULES)
        assert [job.alone for job in jobs_of(session, [suspect, other])] == [True, False]


def test_a_job_that_is_to_be_cancelled_when_its_company_is_lost_is_cancelled(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pairs = rows.running_bundle(session, owner, worker, 2, lease=-1)
        lifecycle.cancel(session, owner, pairs[0][0])
        assert lifecycle.reap(session, RULES) == 2
        assert [job.state for job in jobs_of(session, pairs)] == [State.CANCELLED, State.QUEUED]


def test_what_fails_in_company_by_its_own_doing_counts_and_may_travel_again(database: Database) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        pairs = rows.running_bundle(session, rows.team(session), worker, 2)
        failure = failure_of(DiskFull())
        lifecycle.finish(session, worker, [Ending(pair, Outcome.FAILED, failure=failure) for pair in pairs], RULES)
        assert [(job.state, job.failures, job.alone) for job in jobs_of(session, pairs)] == [
            (State.QUEUED, 1, False)
        ] * 2


# --- ended ----------------------------------------------------------------------------------------------------

Expected = tuple[State, int]  # the job's state, and its failures


def ending(number: int, pair: Pair) -> tuple[Ending, Expected]:
    """One of five kinds of ending, each with something of its own in it."""
    match number % 5:
        case 0:
            return Ending(pair, Outcome.SUCCEEDED, result={"echo": f"job {number}"}), (State.SUCCEEDED, 0)
        case 1:
            made = {
                "id": uuid7(), "name": f"{number}.png", "media_type": "image/png", "key": f"jobs/{uuid4()}",
                "bytes": number, "sha256": "0" * 64,
            }  # fmt: skip
            return Ending(pair, Outcome.SUCCEEDED, result={}, artefacts=[made]), (State.SUCCEEDED, 0)
        case 2:
            failure = failure_of(InvalidInput(f"job {number} is wrong"))
            return Ending(pair, Outcome.FAILED, failure=failure), (State.FAILED, 1)
        case 3:
            failure = failure_of(DiskFull(f"job {number} had no luck"))
            return Ending(pair, Outcome.FAILED, failure=failure), (State.QUEUED, 1)
        case _:
            return Ending(pair, Outcome.CANCELLED, failure=failure_of(Cancelled())), (State.CANCELLED, 0)


def test_fifty_endings_in_one_transaction_give_each_job_its_own(database: Database) -> None:
    # given 50 jobs of two messages that ended in every way
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pairs = [pair for _ in range(2) for pair in rows.running_bundle(session, owner, worker, 25)]
    told = [ending(number, pair) for number, pair in enumerate(pairs)]
    # when all are recorded together, in no order
    with database.transaction() as session:
        states = lifecycle.finish(session, worker, Random(3).sample([each for each, _ in told], 50), RULES)
    assert states == {each.pair: state for each, (state, _) in told}
    # then each job has its own state, result, error and artefact, and a history without gaps
    with database.transaction() as session:
        artefacts = {row.job_id: row.name for row in session.query(Artefact)}
        for number, (each, (state, failures)) in enumerate(told):
            job, error = session.get_one(Job, each.pair[0]), each.failure and each.failure.model_dump(mode="json")
            attempt = session.get_one(Attempt, each.pair)
            assert (job.state, job.failures, job.result, job.error) == (state, failures, each.result, error)
            assert (job.bundle, job.lease_until, job.finished_at is None) == (None, None, state is State.QUEUED)
            assert (attempt.outcome, attempt.error, attempt.ended_at is None) == (each.outcome, error, False)
            assert artefacts.get(job.id) == (f"{number}.png" if each.artefacts else None)
            written = rows.events(session, job.id)
            assert [(seq, data["state"]) for seq, _, data in written] == [
                *enumerate(("queued", "dispatched", "running", state.value), 1)
            ]
            assert written[-1][2] == {"state": state, "attempt": 1, "outcome": each.outcome, "error": error}
            assert job.last_event == 4


def test_a_stale_ending_changes_nothing_and_holds_up_nobody(database: Database) -> None:
    # given three jobs of one message, the second of which was lost and is run again by the same worker
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        first, stale, last = rows.running_bundle(session, owner, worker, 3)
        session.get_one(Job, stale[0]).lease_until = session.scalar(select(func.now() - func.make_interval(0, 0, 0, 1)))
        session.flush()
        assert lifecycle.reap(session, RULES) == 1
        again = run_alone(session, worker, stale[0], lease=30)
        before = rows.events(session, stale[0])
    # when the endings of the first attempts come in, one of them with an artefact
    made = ending(1, stale)[0].artefacts
    endings = [Ending(pair, Outcome.SUCCEEDED, result={"attempt": 1}, artefacts=made) for pair in (stale,)]
    endings += [Ending(pair, Outcome.SUCCEEDED, result={}) for pair in (first, last)]
    with database.transaction() as session:
        states = lifecycle.finish(session, worker, endings, RULES)
    # then the others are recorded, and the second attempt goes on as if nothing had happened
    assert states == {first: State.SUCCEEDED, last: State.SUCCEEDED}
    with database.transaction() as session:
        [job] = jobs_of(session, [stale])
        assert (job.state, job.attempt, job.result, job.error is None) == (State.RUNNING, again[1], None, False)
        assert rows.events(session, stale[0]) == before
        assert session.scalar(select(func.count()).select_from(Artefact)) == 0
        assert session.get_one(Attempt, stale).outcome is Outcome.LOST
        assert session.get_one(Attempt, again).outcome is None


def test_nothing_at_all_can_be_finished(database: Database) -> None:
    with database.transaction() as session:
        assert lifecycle.finish(session, rows.worker(session), [], RULES) == {}


def test_two_transactions_that_end_the_same_jobs_record_each_once_and_wait_for_each_other(database: Database) -> None:
    for turn in range(10):
        with database.transaction() as session:
            owner, worker = rows.team(session), rows.worker(session)
            pairs = rows.running_bundle(session, owner, worker, 30)

        def finish(seed: int, worker: UUID = worker, pairs: list[Pair] = pairs) -> dict[Pair, State]:
            mine = Random(seed).sample(pairs[:20] if seed % 2 else pairs[10:], 20)
            endings = [Ending(pair, Outcome.SUCCEEDED, result={"by": seed}) for pair in mine]
            with database.transaction() as session:
                return dict(lifecycle.finish(session, worker, endings, RULES))

        seeds = (2 * turn, 2 * turn + 1)
        with ThreadPoolExecutor(2) as threads:
            done = dict(zip(seeds, threads.map(finish, seeds), strict=True))
        assert sorted([*done[seeds[0]], *done[seeds[1]]]) == sorted(pairs)  # each by one of them
        with database.transaction() as session:
            results = {job.id: job.result for job in jobs_of(session, pairs)}
        assert results == {pair[0]: {"by": seed} for seed, recorded in done.items() for pair in recorded}


# --- when handlers began --------------------------------------------------------------------------------------


def test_a_lone_job_begins_when_it_is_claimed_and_one_in_company_when_its_turn_comes(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        lone = rows.running(session, owner, worker)
        first, second = rows.running_bundle(session, owner, worker, 2)
        # when the worker says that the first one's turn came ten seconds ago
        leases.note_starts(session, worker, {first: 10.0})
        began = [seconds_since(session, job) for job, _ in (lone, first, second)]
        assert began == [pytest.approx(0), pytest.approx(10), None]
        assert all(job.claimed_at is not None for job in jobs_of(session, [lone, first, second]))


def test_a_start_is_noted_once_and_only_by_the_attempt_that_runs(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        noted, other = rows.running_bundle(session, owner, worker, 2)
        leases.note_starts(session, worker, {noted: 10.0})
        leases.note_starts(session, worker, {noted: 20.0})
        leases.note_starts(session, rows.worker(session), {other: 20.0})
        leases.note_starts(session, worker, {(other[0], other[1] - 1): 20.0})
        assert [seconds_since(session, job) for job, _ in (noted, other)] == [pytest.approx(10), None]


def test_a_job_that_ended_before_its_start_was_noted_began_as_long_ago_as_it_took(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        noted, quick, unlucky = rows.running_bundle(session, owner, worker, 3)
        leases.note_starts(session, worker, {noted: 10.0})
        endings = [Ending(pair, Outcome.SUCCEEDED, result={}, spent=0.25) for pair in (noted, quick)]
        endings += [Ending(unlucky, Outcome.FAILED, failure=failure_of(DiskFull()), spent=0.25)]
        lifecycle.finish(session, worker, endings, RULES)
        began = [seconds_since(session, job) for job, _ in (noted, quick, unlucky)]
        assert began == [pytest.approx(10), pytest.approx(0.25), None]  # the last one is queued again


# --- renewing meanwhile ---------------------------------------------------------------------------------------


def test_a_renewal_that_meets_the_endings_of_its_jobs_waits_for_them(vlyard: System) -> None:
    database = vlyard.database
    # given three jobs whose rows lie in the opposite order of their ids
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        jobs = [rows.queued(session, owner) for _ in range(3)]
        pairs = [run_alone(session, worker, job, lease=30) for job in reversed(jobs)]

    def finish() -> int:
        endings = [Ending(pair, Outcome.SUCCEEDED) for pair in pairs]
        with database.transaction() as session:
            return len(lifecycle.finish(session, worker, endings, RULES))

    def renew() -> int:
        with database.transaction() as session:
            return len(leases.renew(session, worker, pairs, 30))

    # when both are under way, and somebody lets go of the job in the middle
    with ThreadPoolExecutor(2) as threads:
        with database.transaction() as session:
            session.execute(select(Job.id).where(Job.id == jobs[1]).with_for_update())
            finished = threads.submit(finish)
            eventually(lambda: waiting_for_locks(database) == 1, what="the waiting of the endings")
            renewed = threads.submit(renew)
            eventually(lambda: waiting_for_locks(database) == 2, what="the waiting of the renewal")
        # then neither waits for the other for ever
        assert finished.result() == 3
        assert renewed.result() == 0
