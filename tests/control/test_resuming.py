"""Checkpoints exist only once a fenced row names them; the next attempt gets the newest one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from control import lifecycle, resuming
from control.failures import failure_of
from control.lifecycle import Ending, Rules
from control.resuming import Resumption
from control.retrying import Backoff
from control.sweeping import Sweeper
from db import artefacts, leases, queue
from db.checkpoints import Kept
from db.clock import from_now
from db.leases import Claimed
from db.models import Attempt, Checkpoint, Job, Outcome
from db.queue import Pair
from tests.control.locks import waiting_for_locks
from tests.db import rows
from tests.system import System, eventually
from vlyard.errors import InvalidInput, OutOfMemory, WorkerLost
from vlyard.jobs.state import State

RULES = Rules(30, Backoff(0, 0), Random(1))
SHORT = OutOfMemory()


class Course:
    """A training and its attempts, each by a worker of its own."""

    def __init__(self, vlyard: System) -> None:
        self.vlyard = vlyard
        with vlyard.database.transaction() as session:
            self.team = rows.team(session)
            self.worker = rows.worker(session, kinds=["training"])
            self.pair: Pair = rows.running(session, self.team, self.worker, kind="training")

    @property
    def job(self) -> UUID:
        return self.pair[0]

    def place(self, step: int, attempt: int = 0) -> str:
        return f"teams/{self.team}/jobs/{self.job}/attempts/{attempt or self.pair[1]}/checkpoint-{step}"

    def keep(self, step: int, latest: int = 2) -> list[str] | None:
        """What a worker does whose child has stored a checkpoint of two files; the keys that are dropped."""
        for name in ("manifest.json", "files/a"):
            self.vlyard.store.put_bytes(f"{self.place(step)}/{name}", b"{}", "application/json")
        kept = Kept(step, f"{self.place(step)}/manifest.json", 7, "0" * 64)
        with self.vlyard.database.transaction() as session:
            dropped = resuming.keep(session, self.worker, self.pair, kept, latest)
        return None if dropped is None else list(dropped)

    def end(self, outcome: Outcome, error: Exception | None = None) -> State:
        failure = failure_of(error) if error else None
        ending = Ending(self.pair, outcome, failure=failure, result={} if outcome is Outcome.SUCCEEDED else None)
        with self.vlyard.database.transaction() as session:
            return lifecycle.finish(session, self.worker, [ending], RULES)[self.pair]

    def begin_again(self) -> Resumption:
        """The next attempt, by another worker; what it goes on from."""
        with self.vlyard.database.transaction() as session:
            queue.dispatch(session, [[self.job]])
            self.worker, self.pair = rows.worker(session, kinds=["training"]), (self.job, self.pair[1] + 1)
            claimed = lifecycle.claim(session, self.worker, [self.pair], RULES)
            return resuming.resumptions(session, claimed)[self.job]

    def steps(self) -> list[tuple[int, int]]:
        with self.vlyard.database.transaction() as session:
            found = session.query(Checkpoint).filter_by(job_id=self.job).order_by(Checkpoint.step)
            return [(row.attempt, row.step) for row in found]

    def stored(self) -> list[str]:
        """The checkpoints of which anything is in the store."""
        place = f"teams/{self.team}/jobs/{self.job}/attempts/"
        keys = [key.removeprefix(place) for key, _ in self.vlyard.store.listed(place)]
        return sorted({"/".join(key.split("/")[:2]) for key in keys})

    def age(self) -> None:
        """Everything that ended did so long ago."""
        with self.vlyard.database.transaction() as session:
            session.execute(update(Job).where(Job.finished_at.is_not(None)).values(finished_at=from_now(-1e5)))
            session.execute(update(Attempt).where(Attempt.ended_at.is_not(None)).values(ended_at=from_now(-1e5)))


@pytest.fixture
def course(vlyard: System) -> Course:
    vlyard.store.ensure_bucket()
    return Course(vlyard)


@pytest.fixture
def sweeper(vlyard: System) -> Sweeper:
    return Sweeper(vlyard.database, vlyard.store, vlyard.settings)


# --- the rows -------------------------------------------------------------------------------------------------


def test_the_next_attempt_goes_on_from_the_newest_checkpoint(course: Course) -> None:
    for step in (100, 200, 300):
        course.keep(step)
    course.end(Outcome.RELEASED)
    left = course.begin_again()
    assert left == Resumption(Kept(300, f"{course.place(300, 1)}/manifest.json", 7, "0" * 64), 0)


def test_a_first_attempt_goes_on_from_nothing_and_a_kind_that_does_not_resume_is_not_asked(course: Course) -> None:
    claimed = Claimed(course.job, 1, course.team, "training", {}, None)
    with course.vlyard.database.transaction() as session:
        assert resuming.resumptions(session, [claimed]) == {course.job: Resumption()}
        assert resuming.resumptions(session, [replace(claimed, kind="noop")]) == {}


def test_so_many_of_the_latest_checkpoints_stay(course: Course) -> None:
    assert course.keep(100) == []
    assert course.keep(200) == []
    assert course.keep(300) == [f"{course.place(100)}/manifest.json"]
    assert course.keep(400, latest=1) == [f"{course.place(step)}/manifest.json" for step in (200, 300)]
    assert course.steps() == [(1, 400)]


def test_an_attempt_that_was_given_to_another_keeps_nothing(course: Course) -> None:
    # given an attempt that was lost, and its successor at work
    course.keep(100)
    stale = course.worker, course.pair
    course.end(Outcome.LOST, WorkerLost())
    course.begin_again()
    course.keep(150)
    successor, (course.worker, course.pair) = (course.worker, course.pair), stale
    # when the first one says what it kept, then it is nothing, and nothing of the successor's goes
    assert course.keep(200, latest=1) is None
    assert course.steps() == [(1, 100), (2, 150)]
    # nor does the worker keep anything for an attempt that is another's
    course.worker, course.pair = stale[0], successor[1]
    assert course.keep(300) is None


def test_an_attempt_that_has_ended_keeps_nothing(course: Course) -> None:
    course.end(Outcome.CANCELLED)
    assert course.keep(100) is None
    assert course.steps() == []


def test_a_checkpoint_that_comes_while_its_attempt_is_given_up_waits_and_is_none(course: Course) -> None:
    # given somebody who is closing the attempt
    closing, go_on = threading.Event(), threading.Event()

    def reap() -> None:
        with course.vlyard.database.transaction() as session:
            session.execute(update(Job).where(Job.id == course.job).values(lease_until=from_now(-1)))
            assert lifecycle.reap(session, RULES) == 1
            closing.set()
            assert go_on.wait(30)

    with ThreadPoolExecutor(2) as threads:
        reaping = threads.submit(reap)
        assert closing.wait(30)
        # when its worker keeps a checkpoint meanwhile
        keeping = threads.submit(course.keep, 100)
        eventually(lambda: waiting_for_locks(course.vlyard.database) == 1)
        go_on.set()
        reaping.result()
        # then it is none
        assert keeping.result() is None
    assert course.steps() == []


def test_a_step_that_is_reached_again_is_the_later_attempts(course: Course) -> None:
    course.keep(100)
    course.end(Outcome.RELEASED)
    course.begin_again()
    course.keep(100)
    assert course.steps() == [(2, 100)]


def test_an_attempt_hears_how_often_memory_ran_out_before_it(course: Course) -> None:
    course.keep(100)
    assert course.end(Outcome.FAILED, SHORT) is State.QUEUED
    left = course.begin_again()
    assert (left.kept and left.kept.step, left.shortages) == (100, 1)
    course.end(Outcome.RELEASED)
    assert course.begin_again().shortages == 1  # what was given back is no shortage


def test_a_job_may_lose_any_number_of_workers_as_long_as_each_leaves_more(course: Course) -> None:
    # given a kind that has three attempts, and five workers that were lost after a checkpoint each
    for step in range(100, 600, 100):
        course.keep(step)
        assert course.end(Outcome.LOST, WorkerLost()) is State.QUEUED
        assert course.begin_again().kept is not None
    # when others are lost that reached nothing, then its attempts are counted
    assert course.end(Outcome.LOST, WorkerLost()) is State.QUEUED
    course.begin_again()
    assert course.end(Outcome.LOST, WorkerLost()) is State.QUEUED
    course.begin_again()
    assert course.end(Outcome.LOST, WorkerLost()) is State.FAILED


def test_memory_that_runs_out_after_a_worker_was_lost_is_still_tried_in_smaller_pieces_and_once(course: Course) -> None:
    course.end(Outcome.LOST, WorkerLost())
    course.begin_again()
    assert course.end(Outcome.FAILED, SHORT) is State.QUEUED
    assert course.begin_again().shortages == 1
    course.keep(100)
    assert course.end(Outcome.LOST, WorkerLost()) is State.QUEUED
    course.begin_again()
    assert course.end(Outcome.FAILED, SHORT) is State.FAILED


# --- the store ------------------------------------------------------------------------------------------------


def test_what_a_living_job_can_go_on_from_is_not_swept_and_what_has_no_row_is(course: Course, sweeper: Sweeper) -> None:
    # given an attempt that was lost after it had stored a checkpoint and half of another
    course.keep(100)
    course.vlyard.store.put_bytes(f"{course.place(200)}/files/a", b"half", "application/json")
    course.end(Outcome.LOST, WorkerLost())
    course.age()
    # when it is swept
    sweeper.sweep()
    # then the one with a row is there, whole, and the other is not
    assert course.stored() == ["1/checkpoint-100"]
    assert course.begin_again().kept is not None
    assert len(list(course.vlyard.store.listed(course.place(100, 1)))) == 2


@pytest.mark.parametrize(
    "ending", [(Outcome.SUCCEEDED, None), (Outcome.FAILED, InvalidInput()), (Outcome.CANCELLED, None)]
)
def test_the_checkpoints_of_an_ended_job_go_after_a_while_with_what_never_was_one(
    course: Course, sweeper: Sweeper, ending: tuple[Outcome, Exception | None]
) -> None:
    # given a job that has ended, of two attempts, and objects whose row is gone or never came
    course.keep(100)
    course.end(Outcome.RELEASED)
    course.begin_again()
    course.keep(200)
    course.vlyard.store.put_bytes(f"{course.place(250)}/files/a", b"half", "application/json")
    log = f"teams/{course.team}/jobs/{course.job}/attempts/2/checkpoint-notes.txt"
    course.vlyard.store.put_bytes(log, b"not a checkpoint", "text/plain")
    course.end(*ending)
    # when it is swept at once, nothing of it goes
    sweeper.sweep()
    assert course.steps() == [(1, 100), (2, 200)]
    # when it is swept later, all checkpoints go
    course.age()
    sweeper.sweep()
    assert course.steps() == []
    assert [each for each in course.stored() if "checkpoint-" in each and "notes" not in each] == []
    # and what the job made besides stays where the attempt succeeded
    assert ("2/checkpoint-notes.txt" in course.stored()) == (ending[0] is Outcome.SUCCEEDED)


def test_what_a_failed_attempt_rescued_is_an_artefact_that_stays(course: Course, sweeper: Sweeper) -> None:
    # given an attempt that failed for good, and has stored a model and something that nobody names
    for name in ("model/manifest.json", "model/files/a", "half"):
        course.vlyard.store.put_bytes(f"{course.place(0).rpartition('/')[0]}/{name}", b"{}", "application/json")
    key = f"{course.place(0).rpartition('/')[0]}/model/manifest.json"
    model = uuid4()
    tree = {
        "id": model, "name": "model", "media_type": "a/b", "key": key, "bytes": 2, "sha256": "0" * 64, "kind": "tree",
    }  # fmt: skip
    ending = Ending(course.pair, Outcome.FAILED, failure=failure_of(InvalidInput()), artefacts=[], rescued=[tree])
    with course.vlyard.database.transaction() as session:
        assert lifecycle.finish(session, course.worker, [ending], RULES)[course.pair] is State.FAILED
    # when what failed attempts left is swept
    course.age()
    sweeper.sweep()
    # then the model is there whole, and can be a job's input
    assert course.stored() == ["1/model"]
    with course.vlyard.database.transaction() as session:
        assert [row.name for row in artefacts.ready(session, course.team, {model})] == ["model"]


def test_an_artefact_that_is_called_like_a_checkpoint_stays(course: Course, sweeper: Sweeper) -> None:
    course.keep(100)
    key = f"{course.place(7)}/manifest.json"
    course.vlyard.store.put_bytes(key, b"{}", "application/json")
    made = {"id": uuid4(), "name": "checkpoint-7", "media_type": "a/b", "key": key, "bytes": 2, "sha256": "0" * 64}
    ending = Ending(course.pair, Outcome.SUCCEEDED, result={}, artefacts=[{**made, "kind": "tree"}])
    with course.vlyard.database.transaction() as session:
        lifecycle.finish(session, course.worker, [ending], RULES)
    course.age()
    sweeper.sweep()
    assert course.stored() == ["1/checkpoint-7"]


def test_metrics_are_events_of_the_attempt_that_is_the_workers(course: Course) -> None:
    with course.vlyard.database.transaction() as session:
        leases.record_metrics(session, course.worker, course.pair, {"loss": 0.5})
        leases.record_metrics(session, course.worker, (course.job, 7), {"loss": 0.1})
        leases.record_metrics(session, uuid4(), course.pair, {"loss": 0.2})
        seen = rows.events(session, course.job)
    assert [data for _, type, data in seen if type == "metrics"] == [{"loss": 0.5}]
