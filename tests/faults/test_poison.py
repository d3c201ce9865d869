"""A job that kills the worker that runs it, among jobs that do no harm: it takes nobody with it."""

import pytest
from sqlalchemy import select, update

from control import submit
from db.models import Attempt, Job, Outcome
from tests.system import System, eventually
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Batch


def _poison_is_alone_in_failing(system: System, good: int, max_attempts: int, slots: int = 1) -> None:
    # given a poison job in the middle of good ones, and one worker more than it can kill
    jobs = [{"spec": {"kind": "noop", "crash": at == good // 2}} for at in range(good + 1)]
    with system.database.transaction() as session:
        made = submit.submit_batch(session, system.caller(), Batch.model_validate({"jobs": jobs}), None)
        session.execute(update(Job).values(max_attempts=max_attempts))
    poison = made[good // 2].id
    for number in range(max_attempts + 2):
        system.start_worker(Device.CPU, "--slots", str(slots), name=f"worker-{number}")
    # when they run
    system.start_dispatcher()
    eventually(lambda: all(row.state in TERMINAL for row in _jobs(system)), 150, "the end of all jobs")
    # then the poison has failed, and nothing else, and its last attempts were its own
    bad = [row for row in _jobs(system) if row.state is not State.SUCCEEDED]
    assert [row.id for row in bad] == [poison]
    assert (bad[0].state, bad[0].failures, (bad[0].error or {})["code"]) == (State.FAILED, max_attempts, "worker_lost")
    with system.database.transaction() as session:
        lost = session.scalars(select(Attempt).where(Attempt.outcome == Outcome.LOST)).all()
    assert max_attempts <= sum(each.job_id == poison for each in lost) <= max_attempts + 1
    # and whoever travelled with it was run once more at most, which is not held against it
    company = [each.job_id for each in lost if each.job_id != poison]
    assert len(company) == len(set(company)) < 64 * slots
    assert {row.failures for row in _jobs(system) if row.id != poison} == {0}
    assert len(system.living()) >= 1


def _jobs(system: System) -> list[Job]:
    with system.database.transaction() as session:
        return list(session.scalars(select(Job)))


def test_a_job_that_kills_its_worker_fails_and_those_that_travel_with_it_succeed(system: System) -> None:
    _poison_is_alone_in_failing(system, good=20, max_attempts=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("slots", [1, 2])
def test_a_job_that_kills_every_worker_among_a_hundred_good_ones_fails_after_three_attempts(
    system: System, slots: int
) -> None:
    _poison_is_alone_in_failing(system, good=100, max_attempts=3, slots=slots)
