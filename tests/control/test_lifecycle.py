"""How a job moves: what is recorded when an attempt ends, who may record it, and what comes next."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control import lifecycle
from control.failures import failure_of
from control.inputs import checked_inputs, inputs_of
from control.lifecycle import Ending, Rules
from control.retrying import Backoff
from db import leases, queue
from db.models import Artefact, ArtefactState, Attempt, Job, Outcome
from db.queue import Pair
from db.session import Database
from tests.control.locks import waiting_for_locks
from tests.db import rows
from tests.system import System, eventually
from vlyard.errors import (
    Cancelled,
    Complaint,
    Conflict,
    DiskFull,
    InvalidInput,
    NotFound,
    OutOfMemory,
    Unavailable,
    VLyardError,
    WorkerLost,
)
from vlyard.jobs.inference import InferenceSpec
from vlyard.jobs.state import TERMINAL, State

AT_ONCE = Rules(lease_seconds=30, backoff=Backoff(0, 0), rng=Random(1))
LATER = dataclasses.replace(AT_ONCE, backoff=Backoff(base_seconds=1000, cap_seconds=1000))


@pytest.fixture
def database(vlyard: System) -> Database:
    return vlyard.database


def failed(pair: Pair, error: VLyardError) -> Ending:
    return Ending(pair, Outcome.FAILED, failure=failure_of(error))


def output(name: str = "answer.png") -> dict[str, Any]:
    return {
        "id": uuid7(), "name": name, "media_type": "image/png", "key": f"jobs/{uuid4()}/{name}", "bytes": 3,
        "sha256": "0" * 64,
    }  # fmt: skip


def attempts(session: Session, job: UUID) -> list[Attempt]:
    return session.query(Attempt).filter_by(job_id=job).order_by(Attempt.number).all()


# --- finishing ------------------------------------------------------------------------------------------------


def test_success_records_the_result_its_artefacts_and_the_attempt(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pair, made = rows.running(session, owner, worker), output()
        ending = Ending(pair, Outcome.SUCCEEDED, result={"echo": "done"}, artefacts=[made])
        assert lifecycle.finish(session, worker, [ending], AT_ONCE) == {pair: State.SUCCEEDED}
    with database.transaction() as session:
        job, [attempt], [artefact] = session.get_one(Job, pair[0]), attempts(session, pair[0]), session.query(Artefact)
    assert (job.state, job.result, job.error, job.lease_until) == (State.SUCCEEDED, {"echo": "done"}, None, None)
    assert job.finished_at is not None
    assert (attempt.outcome, attempt.ended_at) == (Outcome.SUCCEEDED, job.finished_at)
    assert (artefact.id, artefact.team_id, artefact.job_id, artefact.attempt) == (made["id"], owner, pair[0], 1)
    assert artefact.state is ArtefactState.READY


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (InvalidInput("wrong", [Complaint("labels/1.txt:3", "x is 7")]), State.FAILED),
        (DiskFull(), State.QUEUED),
        (Unavailable(), State.QUEUED),
        (WorkerLost(), State.QUEUED),
        (OutOfMemory(), State.QUEUED),
        (VLyardError(), State.QUEUED),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_the_blame_of_a_failure_decides_whether_the_job_runs_again(
    database: Database, error: VLyardError, state: State
) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        pair = rows.running(session, rows.team(session), worker)
        assert lifecycle.finish(session, worker, [failed(pair, error)], AT_ONCE) == {pair: state}
        job, [attempt] = session.get_one(Job, pair[0]), attempts(session, pair[0])
        session.refresh(job)
        assert (job.state, job.failures, job.finished_at is None) == (state, 1, state is State.QUEUED)
        assert attempt.outcome is Outcome.FAILED
        assert job.error == attempt.error == failure_of(error).model_dump(mode="json")


def test_a_retried_job_waits_out_its_delay_and_then_has_its_next_attempt(database: Database) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        now, later = (rows.running(session, rows.team(session), worker) for _ in range(2))
        lifecycle.finish(session, worker, [failed(now, Unavailable())], AT_ONCE)
        lifecycle.finish(session, worker, [failed(later, Unavailable())], LATER)
        assert [row[0] for row in queue.waiting(session, "default", {"noop": 5})] == [now[0]]
        [bell] = queue.dispatch(session, [[now[0]]])
        assert bell.pairs == ((now[0], 2),)


def test_a_job_fails_after_its_last_attempt_and_keeps_that_ones_error(database: Database) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        job = rows.queued(session, rows.team(session), max_attempts=3)
        for number in (1, 2, 3):
            [bell] = queue.dispatch(session, [[job]])
            assert bell.pairs == ((job, number),)
            assert leases.claim(session, worker, bell.pairs, 30)
            lifecycle.finish(session, worker, [failed((job, number), DiskFull(f"try {number}"))], AT_ONCE)
        row = session.get_one(Job, job)
        assert row.state is State.FAILED
        assert row.finished_at is not None
        assert row.error is not None
        assert row.error["message"] == "try 3"
        assert [a.error["message"] for a in attempts(session, job) if a.error] == ["try 1", "try 2", "try 3"]


def test_a_job_that_succeeds_in_the_end_has_no_error(database: Database) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        job, _ = pair = rows.running(session, rows.team(session), worker)
        lifecycle.finish(session, worker, [failed(pair, Unavailable())], AT_ONCE)
        queue.dispatch(session, [[job]])
        leases.claim(session, worker, [(job, 2)], 30)
        lifecycle.finish(session, worker, [Ending((job, 2), Outcome.SUCCEEDED, result={})], AT_ONCE)
        assert session.scalar(select(Job.error)) is None
        assert [attempt.error is None for attempt in attempts(session, job)] == [False, True]


def test_a_job_that_is_cancelled_while_it_runs_keeps_its_words_so_far_and_no_files(
    database: Database,
) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        pair = rows.running(session, rows.team(session), worker)
        said = {"text": "so far", "artefacts": {"annotated": str(uuid4())}}
        cancelled = Ending(pair, Outcome.CANCELLED, result=said)
        assert lifecycle.finish(session, worker, [cancelled], AT_ONCE) == {pair: State.CANCELLED}
        assert session.scalar(select(Job.result)) == {"text": "so far", "artefacts": {}}


def test_a_job_that_fails_while_it_is_being_cancelled_is_not_tried_again(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pair = rows.running(session, owner, worker)
        lifecycle.cancel(session, owner, pair[0])
        assert lifecycle.finish(session, worker, [failed(pair, Unavailable())], AT_ONCE) == {pair: State.CANCELLED}


def test_a_job_that_succeeds_while_it_is_being_cancelled_has_succeeded(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pair = rows.running(session, owner, worker)
        lifecycle.cancel(session, owner, pair[0])
        assert lifecycle.finish(session, worker, [Ending(pair, Outcome.SUCCEEDED)], AT_ONCE) == {pair: State.SUCCEEDED}


def test_a_stale_attempt_records_nothing(database: Database) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        job, first = rows.running(session, rows.team(session), worker, lease=-1)
        assert lifecycle.reap(session, AT_ONCE) == 1
        queue.dispatch(session, [[job]])
        leases.claim(session, worker, [(job, 2)], 30)
        before = rows.events(session, job)
    # when the first attempt comes back with a result, on the very worker that runs the second one
    late = Ending((job, first), Outcome.SUCCEEDED, result={"echo": "late"}, artefacts=[output()])
    with database.transaction() as session:
        assert lifecycle.finish(session, worker, [late], AT_ONCE) == {}
    # then the second one goes on as if nothing had happened
    with database.transaction() as session:
        row = session.get_one(Job, job)
        assert (row.state, row.attempt, row.result) == (State.RUNNING, 2, None)
        assert session.scalar(select(func.count()).select_from(Artefact)) == 0
        assert rows.events(session, job) == before
        assert [attempt.outcome for attempt in attempts(session, job)] == [Outcome.LOST, None]


def test_nobody_finishes_another_workers_attempt_or_an_ended_one(database: Database) -> None:
    with database.transaction() as session:
        worker, stranger = rows.worker(session), rows.worker(session)
        pair = rows.running(session, rows.team(session), worker)
        done = Ending(pair, Outcome.SUCCEEDED)
        before = rows.events(session, pair[0])
        assert lifecycle.finish(session, stranger, [done], AT_ONCE) == {}
        assert rows.events(session, pair[0]) == before
        assert lifecycle.finish(session, worker, [done], AT_ONCE) == {pair: State.SUCCEEDED}
        before = rows.events(session, pair[0])
        assert lifecycle.finish(session, worker, [failed(pair, Unavailable())], AT_ONCE) == {}
        assert rows.events(session, pair[0]) == before
        job, [attempt] = session.get_one(Job, pair[0]), attempts(session, pair[0])
        assert (job.state, job.failures, job.error, attempt.error) == (State.SUCCEEDED, 0, None, None)


# --- reaping --------------------------------------------------------------------------------------------------


def test_reaping_closes_expired_attempts_as_lost_and_leaves_the_others(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        kept = rows.running(session, owner, rows.worker(session))
        lost, last = (
            rows.running(session, owner, rows.worker(session), lease=-1, max_attempts=number) for number in (3, 1)
        )
        assert lifecycle.reap(session, LATER) == 2
        states = dict(session.execute(select(Job.id, Job.state)).all())
        assert states == {kept[0]: State.RUNNING, lost[0]: State.QUEUED, last[0]: State.FAILED}
        [attempt] = attempts(session, lost[0])
        assert attempt.outcome is Outcome.LOST
        assert attempt.error is not None
        assert attempt.error["code"] == "worker_lost"
        # at once, because nothing was wrong with the job
        assert [row[0] for row in queue.waiting(session, "default", {"noop": 5})] == [lost[0]]


def test_two_reapers_close_each_attempt_once(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        for _ in range(20):
            rows.running(session, owner, rows.worker(session), lease=-1)

    def reap(_: int) -> int:
        with database.transaction() as session:
            return lifecycle.reap(session, AT_ONCE)

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(reap, range(2))) == 20
    with database.transaction() as session:
        assert session.scalars(select(Job.failures)).all() == [1] * 20


# --- cancelling -----------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        waiting, rung = rows.queued(session, owner), rows.dispatched(session, owner)[0]
        for job in (waiting, rung):
            row = lifecycle.cancel(session, owner, job)
            assert row.state is State.CANCELLED
            assert row.cancel_requested_at is not None
            assert row.finished_at is not None


def test_a_running_job_is_asked_to_stop_as_often_as_one_likes(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        job, _ = rows.running(session, owner, rows.worker(session))
        first = lifecycle.cancel(session, owner, job).cancel_requested_at
    with database.transaction() as session:
        row = lifecycle.cancel(session, owner, job)
        assert row.state is State.RUNNING
        assert first is not None
        assert row.cancel_requested_at == first


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_job_that_has_ended_cannot_be_cancelled(database: Database, state: State) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        job = rows.queued(session, owner)
        session.get_one(Job, job).state = state
        session.flush()
        with pytest.raises(Conflict, match=state):
            lifecycle.cancel(session, owner, job)


def test_another_teams_job_cannot_be_cancelled(database: Database) -> None:
    with database.transaction() as session:
        job = rows.queued(session, rows.team(session))
        with pytest.raises(NotFound):
            lifecycle.cancel(session, rows.team(session), job)
        assert session.get_one(Job, job).state is State.QUEUED


def test_a_cancel_that_meets_a_claim_ends_the_job_or_reaches_its_worker(database: Database) -> None:
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pairs = [rows.dispatched(session, owner) for _ in range(30)]

    for pair in pairs:
        together = threading.Barrier(2)

        def claim(pair: Pair = pair, together: threading.Barrier = together) -> bool:
            with database.transaction() as session:
                together.wait()
                return bool(leases.claim(session, worker, [pair], 30))

        def cancel(pair: Pair = pair, together: threading.Barrier = together) -> State:
            with database.transaction() as session:
                together.wait()
                return lifecycle.cancel(session, owner, pair[0]).state

        with ThreadPoolExecutor(2) as threads:
            claimed, cancelled = threads.submit(claim), threads.submit(cancel)
            assert cancelled.result() is (State.RUNNING if claimed.result() else State.CANCELLED)
    with database.transaction() as session:
        assert session.scalar(select(func.count()).where(Job.cancel_requested_at.is_not(None))) == 30


def test_a_cancel_that_meets_a_retry_is_not_refused(database: Database) -> None:
    # given a job whose worker is about to give it back
    with database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        pair = rows.running(session, owner, worker)

    def cancel() -> State:
        with database.transaction() as session:
            return lifecycle.cancel(session, owner, pair[0]).state

    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as session:
            lifecycle.finish(session, worker, [failed(pair, Unavailable())], LATER)
            cancelled = threads.submit(cancel)
            eventually(lambda: waiting_for_locks(database), what="the cancel's waiting")
        # then the cancel, which waited for it, ends the job
        assert cancelled.result() is State.CANCELLED


# --- inputs and failures --------------------------------------------------------------------------------------


def test_a_claimed_job_gets_its_inputs_in_the_order_it_names_them(database: Database) -> None:
    with database.transaction() as session:
        worker = rows.worker(session)
        pair = rows.running(session, rows.team(session), worker)
        first, second = output("a"), output("b")
        lifecycle.finish(session, worker, [Ending(pair, Outcome.SUCCEEDED, artefacts=[first, second])], AT_ONCE)
        team = session.get_one(Job, pair[0]).team_id
        spec = InferenceSpec(images=(second["id"], first["id"]), prompt="What?")
        claimed = leases.Claimed(uuid4(), 1, team, "inference", spec.model_dump(mode="json"), None)
        stranger = dataclasses.replace(claimed, team=rows.team(session))
        unreadable = dataclasses.replace(claimed, spec={"kind": "inference", "of": "yesterday"})
        found = inputs_of(session, [unreadable, claimed])
        assert [file.id for file in checked_inputs(claimed, spec, found)] == [second["id"], first["id"]]
        with pytest.raises(InvalidInput, match="does not exist any more"):
            checked_inputs(stranger, spec, inputs_of(session, [stranger]))


@pytest.mark.parametrize(
    ("error", "code", "blame"),
    [
        (InvalidInput("no"), "invalid_input", "user"),
        (Cancelled(), "cancelled", "user"),
        (MemoryError(), "out_of_memory", "oom"),
        (OSError(28, "No space left on device"), "disk_full", "transient"),
        (OSError(2, "No such file"), "internal", "transient"),
        (ZeroDivisionError("division by zero"), "internal", "transient"),
    ],
    ids=lambda value: str(value) or None,
)
def test_every_exception_has_a_code_and_a_blame(error: Exception, code: str, blame: str) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.blame) == (code, blame)


def test_an_unforeseen_exception_is_told_by_its_type_and_words() -> None:
    [complaint] = failure_of(ZeroDivisionError("division by zero")).complaints
    assert str(complaint) == "ZeroDivisionError: division by zero"


def test_a_file_name_that_is_no_text_can_be_told_and_stored(database: Database) -> None:
    failure = failure_of(InvalidInput("caf\udce9.jpg is broken", [Complaint("caf\udce9.jpg", "a\0b")]))
    with database.transaction() as session:
        worker = rows.worker(session)
        pair = rows.running(session, rows.team(session), worker)
        lifecycle.finish(session, worker, [Ending(pair, Outcome.FAILED, failure=failure)], AT_ONCE)
        error = session.scalar(select(Job.error))
    assert error is not None
    assert error["message"] == "caf\\udce9.jpg is broken"
    assert error["complaints"] == [{"where": "caf\\udce9.jpg", "what": "a\ufffdb", "fix": ""}]
