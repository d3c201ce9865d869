"""What a worker does around a handler that has a process of its own."""

import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from PIL import Image
from sqlalchemy import select, update

from control import submit
from control.lifecycle import Ending
from control.rules import rules_from
from db import leases, queue, workers
from db.models import Job, Outcome
from db.queue import Pair
from tests.system import System
from vlyard.errors import Cancelled
from vlyard.jobs.inference import InferenceResult
from vlyard.jobs.kinds import KINDS, Device, Isolation
from vlyard.jobs.state import State
from vlyard.jobs.view import Submission
from workers.asking import own_models
from workers.completer import Completer
from workers.lease import Hold, LeaseKeeper
from workers.runner import Runner

ALONE = [name for name, kind in KINDS.items() if kind.isolation is Isolation.PROCESS and kind.device is Device.GPU]


@pytest.fixture
def children_that_cannot_begin() -> Iterator[None]:
    """A setting that no process of ours takes, so that children end before they bring what a model needs."""
    before = dict(os.environ)
    os.environ["VLYARD_API_PORT"] = "none"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def unloaded() -> list[str]:
    return []


@pytest.fixture
def runner(system: System, unloaded: list[str]) -> Iterator[Runner]:
    """A worker's runner that notes when it gives back the memory of models."""
    with system.database.transaction() as session:
        worker = workers.register(
            session, name="test", pool="default", device=Device.GPU, kinds=list(KINDS), slots=1, gpus=[]
        )
    rules = rules_from(system.settings)
    keeper = LeaseKeeper(system.database, worker, 30, 1)
    completer = Completer(system.database, worker, rules, lambda: None)
    completer.start()
    yield Runner(
        worker, system.database, system.store, keeper, completer, system.settings, rules, frozenset(),
        lambda: unloaded.append("all"),
    )  # fmt: skip
    completer.stop()


class OneThatIsCancelled(Hold):
    """An attempt whose job is cancelled after a few of its words."""

    looks = 0

    def check(self) -> None:
        self.looks += 1
        if self.looks == 30:  # at every word, and a few times before the first
            self.stop(Cancelled())
        super().check()


class Impatient(LeaseKeeper):
    """A keeper of such attempts."""

    def hold(self, pair: Pair, claimed_at: float, *, killable: bool, resumes: bool = False) -> Hold:
        return OneThatIsCancelled(pair, claimed_at, killable, resumes)


def test_an_inference_that_is_cancelled_keeps_the_words_so_far(system: System, runner: Runner) -> None:
    torch.set_num_threads(1)
    said = [{"role": "user", "content": "Hello"}]
    own_models().warm.unload()
    job = system.submit(
        system.caller(), kind="inference", model="untrained", messages=said, max_new_tokens=7_000, temperature=2.0,
        top_p=1.0, seed=1,
    )  # fmt: skip
    with system.database.transaction() as session:
        queue.dispatch(session, [[job]])

    [ending] = replace(runner, keeper=Impatient(system.database, runner.worker, 30, 1)).run([(job, 1)])

    own_models().warm.unload()
    assert ending.outcome is Outcome.CANCELLED
    result = InferenceResult.model_validate(ending.result)
    assert result.answer.finish_reason == "cancelled"
    assert 1 < result.answer.completion_tokens < 7_000


def run(system: System, runner: Runner, **spec: Any) -> tuple[UUID, Outcome]:
    """Run a job's first attempt, as a doorbell has it; how it ended."""
    caller = system.caller()
    for name, field in KINDS[spec["kind"]].spec.model_fields.items():
        if field.is_required() and field.annotation is UUID:
            spec[name] = str(system.upload(caller, f"{name}.zip", b"not an archive"))
        elif field.is_required():
            spec[name] = "demo"
    job = system.submit(caller, **spec)
    with system.database.transaction() as session:
        queue.dispatch(session, [[job]])
    [ending] = runner.run([(job, 1)])
    return job, ending.outcome


@pytest.mark.usefixtures("children_that_cannot_begin")
@pytest.mark.parametrize("kind", ALONE)
def test_a_process_that_needs_the_card_begins_when_models_that_nobody_asks_have_left_it(
    system: System, runner: Runner, unloaded: list[str], kind: str
) -> None:
    _, outcome = run(system, runner, kind=kind)
    assert outcome is Outcome.FAILED
    assert unloaded == ["all"]


def test_a_job_that_runs_longer_than_was_asked_for_is_stopped_and_says_so(system: System, runner: Runner) -> None:
    wanted = Submission.model_validate({"spec": {"kind": "noop", "seconds": 60}, "max_runtime": 0.5})
    with system.database.transaction() as session:
        job = submit.submit(session, system.caller(), wanted, None).id
        queue.dispatch(session, [[job]])
    runner.keeper.start()
    [ending] = runner.run([(job, 1)])
    runner.keeper.stop()
    assert ending.failure is not None
    assert (ending.outcome, ending.failure.code) == (Outcome.FAILED, "time_limit_exceeded")
    assert 0.5 <= (ending.spent or 0) < 30
    row = system.ended(job)
    assert (row.state, row.attempt, (row.error or {})["code"]) == (State.FAILED, 1, "time_limit_exceeded")


@pytest.mark.usefixtures("children_that_cannot_begin")
@pytest.mark.parametrize("kind", ["noop", "training_check"])
def test_what_needs_no_card_or_runs_beside_the_models_leaves_them(
    system: System, runner: Runner, unloaded: list[str], kind: str
) -> None:
    run(system, runner, kind=kind)
    assert unloaded == []


# --- the card -------------------------------------------------------------------------------------------------


def dispatched(system: System, kind: str = "training") -> UUID:
    caller = system.caller()
    job = system.submit(caller, kind=kind, dataset=str(system.upload(caller, "data.zip", b"not an archive")))
    with system.database.transaction() as session:
        queue.dispatch(session, [[job]])
    return job


def slots(system: System) -> list[int]:
    with system.database.transaction() as session:
        return [each.slots for each in workers.living(session, "default", 60)]


@pytest.mark.usefixtures("children_that_cannot_begin")
def test_a_process_has_the_card_alone_and_what_comes_meanwhile_waits_unclaimed(system: System, runner: Runner) -> None:
    # given a worker of two slots, one of which answers a question
    runner = replace(runner, slots=2)
    job = dispatched(system)
    with ThreadPoolExecutor(2) as threads:
        with runner.floor.shared(lambda: False):
            # when a training comes, it waits, and is nobody's yet
            training = threads.submit(runner.answer, "training", [(job, 1)])
            time.sleep(0.5)
            assert system.job(job).state is State.DISPATCHED
            # and a question that comes after it waits for it
            later = runner.floor.shared(lambda: False)
            entered = threads.submit(later.__enter__)
            time.sleep(0.3)
            assert not entered.done()
        # then it runs, and the question after it, and the worker has its slots again
        [ending] = training.result(60)
        assert ending.outcome is Outcome.FAILED
        assert entered.result(60) is True
        later.__exit__(None, None, None)
    assert slots(system) == [2]


def test_while_a_process_has_the_card_no_message_comes_for_another_slot(system: System, runner: Runner) -> None:
    runner = replace(runner, slots=2)
    with runner._narrow():
        assert slots(system) == [1]
    assert slots(system) == [2]


def test_a_worker_that_leaves_waits_for_no_card_and_claims_nothing(system: System, runner: Runner) -> None:
    job = dispatched(system)
    with runner.floor.alone(lambda: False):
        runner.leaving.set()
        assert runner.answer("training", [(job, 1)]) == []
    assert system.job(job).state is State.DISPATCHED


def lost_in_company(system: System) -> UUID:
    job = system.submit(system.caller(), kind="noop")
    with system.database.transaction() as session:
        session.execute(update(Job).where(Job.id == job).values(alone=True))
        queue.dispatch(session, [[job]])
    return job


def test_what_was_lost_in_company_begins_when_nothing_is_beside_it_and_nothing_else_begins_meanwhile(
    system: System, runner: Runner
) -> None:
    # given a worker with a job in one of its slots
    runner = replace(runner, slots=2)
    job = lost_in_company(system)
    with ThreadPoolExecutor(2) as threads:
        with runner.floor.shared(lambda: False):
            # when one comes that was lost in company, it waits, and is nobody's yet
            suspect = threads.submit(runner.answer, "noop", [(job, 1)], alone=True)
            time.sleep(0.5)
            assert system.job(job).state is State.DISPATCHED
            # and what comes after it, of whatever kind, waits for it
            later = threads.submit(runner.answer, "noop", [(UUID(int=0), 1)])
            time.sleep(0.3)
            assert not later.done()
        # then it runs, and after it the other
        [ending] = suspect.result(60)
        assert ending.outcome is Outcome.SUCCEEDED
        assert later.result(60) == []


def test_what_was_lost_in_company_waits_no_longer_than_its_patience_and_is_for_others_then(
    system: System, runner: Runner
) -> None:
    runner, job = replace(runner, patience_seconds=0.5), lost_in_company(system)
    with runner.floor.shared(lambda: False):
        assert runner.answer("noop", [(job, 1)], alone=True) == []
        assert system.job(job).state is State.DISPATCHED
        with runner.floor.shared(lambda: True) as free:
            assert free


@contextmanager
def an_ending_that_cannot_be_recorded(system: System, runner: Runner) -> Iterator[None]:
    """While the block lasts somebody else holds the row of a job that the worker has ended."""
    pair = (dispatched(system), 1)
    with system.database.transaction() as session:
        leases.claim(session, runner.worker, [pair], 30)
    with system.database.transaction() as session:
        session.execute(select(Job.id).where(Job.id == pair[0]).with_for_update())
        hold = runner.keeper.hold(pair, time.monotonic(), killable=False)
        runner.completer.hand_over(Ending(pair, Outcome.RELEASED), hold, lambda _: None, more=False)
        yield


def test_what_was_lost_in_company_begins_when_the_ending_before_it_is_recorded(system: System, runner: Runner) -> None:
    job = lost_in_company(system)
    with ThreadPoolExecutor(1) as threads:
        with an_ending_that_cannot_be_recorded(system, runner):
            # when a job comes that was lost in company, it is nobody's
            suspect = threads.submit(runner.answer, "noop", [(job, 1)], alone=True)
            time.sleep(0.5)
            assert not suspect.done()
            assert system.job(job).state is State.DISPATCHED
        # until that is done
        assert [ending.outcome for ending in suspect.result(60)] == [Outcome.SUCCEEDED]


def test_a_worker_that_leaves_waits_for_no_ending_and_claims_nothing(system: System, runner: Runner) -> None:
    job = lost_in_company(system)
    with an_ending_that_cannot_be_recorded(system, runner):
        runner.leaving.set()
        assert runner.answer("noop", [(job, 1)], alone=True) == []
        assert system.job(job).state is State.DISPATCHED


def test_what_a_job_in_the_workers_own_process_fetched_is_removed_when_it_ends(
    system: System, runner: Runner, tmp_path: Path
) -> None:
    caller, file = system.caller(), io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    picture = system.upload(caller, "red.png", file.getvalue(), "image/png")
    job = system.submit(caller, kind="inference", model="untrained", image=str(picture), prompt="?", max_new_tokens=1)
    with system.database.transaction() as session:
        queue.dispatch(session, [[job]])
    place = tmp_path / "work"
    place.mkdir()
    tidy = replace(runner, settings=system.settings.model_copy(update={"work_dir": place}))

    [ending] = tidy.run([(job, 1)])

    own_models().warm.unload()
    assert ending.outcome is Outcome.SUCCEEDED
    assert list(place.iterdir()) == []
