"""What a training keeps survives its worker: the next attempt goes on from the last checkpoint that has a row."""

from pathlib import Path
from uuid import UUID

import pytest

from db.models import JobEvent, Model, Outcome
from tests.faults.steps import EVERY, checkpoints, copied, start, submitted, until_kept
from tests.system import System, eventually
from vlyard.jobs.state import State

STEPS = 30


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("product"))


@pytest.fixture
def vlyard(system: System, product: Path) -> System:
    """A VLyard from that copy, at work."""
    start(system, product, "dispatcher", "dispatcher")
    start(system, product, "first", "worker", "--device", "cpu", "--kinds", "steps")
    return system


def _result(system: System, job: UUID) -> dict[str, object]:
    row = system.ended(job)
    assert row.state is State.SUCCEEDED, row.error
    assert row.result is not None
    return row.result


def test_a_training_whose_worker_is_killed_goes_on_from_its_last_checkpoint(vlyard: System, product: Path) -> None:
    # given a training that has kept something
    team = vlyard.caller("signs").team
    job = submitted(vlyard, team, steps=STEPS, pause=0.1)
    until_kept(vlyard, job)
    # when its worker is killed and another one comes
    vlyard.kill("first")
    (_, reached), *_ = reversed(checkpoints(vlyard, job))
    start(vlyard, product, "second", "worker", "--device", "cpu", "--kinds", "steps")
    # then no step up to the checkpoint is done again, and every one after it is
    result = _result(vlyard, job)
    assert result["resumed_at"] == reached
    assert result["counted"] == "a" * reached + "b" * (STEPS - reached)
    assert [each.outcome for each in vlyard.attempts(job)] == [Outcome.LOST, Outcome.SUCCEEDED]
    # and only the latest checkpoints are left, in the database as in the store
    assert checkpoints(vlyard, job) == [(2, STEPS - EVERY), (2, STEPS)]
    place = f"teams/{team}/jobs/{job}/attempts/2/checkpoint-"
    kept = {key.removeprefix(place).partition("/")[0] for key, _ in vlyard.store.listed(place)}
    assert kept == {str(STEPS - EVERY), str(STEPS)}
    # and what it made has a name and a version
    assert result["model"] == "signs/counted:1"
    with vlyard.database.transaction() as session:
        [model] = session.query(Model).filter_by(job_id=job)
        assert (model.base, str(model.artefact_id)) == ("demo", result["artefacts"]["model"])  # type: ignore[index]


@pytest.mark.settings(SHUTDOWN_GRACE_SECONDS="60", STOP_GRACE_SECONDS="0")
def test_a_training_whose_worker_is_told_to_stop_keeps_its_last_step(vlyard: System, product: Path) -> None:
    # given a training at work
    job = submitted(vlyard, vlyard.caller().team, steps=STEPS, pause=0.1)
    until_kept(vlyard, job)
    # when its worker is told to stop
    vlyard.supervisor.end("first")
    # then it was given back where it stopped, and nothing is done again
    [given_back] = vlyard.attempts(job)
    assert given_back.outcome is Outcome.RELEASED
    (_, reached), *_ = reversed(checkpoints(vlyard, job))
    start(vlyard, product, "second", "worker", "--device", "cpu", "--kinds", "steps")
    result = _result(vlyard, job)
    assert result["counted"] == "a" * reached + "b" * (STEPS - reached)
    with vlyard.database.transaction() as session:
        said = [row.data for row in session.query(JobEvent).filter_by(job_id=job, type="metrics")]
    assert {each["bad"] for each in said} == {None}
    steps = [each["step"] for each in said]
    assert steps == sorted(set(steps))


def test_a_training_that_ran_out_of_memory_hears_of_it_and_goes_on(vlyard: System) -> None:
    job = submitted(vlyard, vlyard.caller().team, steps=2 * EVERY, pause=0.01, short_at=EVERY + 2)
    result = _result(vlyard, job)
    assert (result["shortages"], result["resumed_at"]) == (1, EVERY)
    first, second = vlyard.attempts(job)
    assert first.error is not None
    assert (first.error["code"], second.outcome) == ("out_of_memory", Outcome.SUCCEEDED)
    eventually(lambda: checkpoints(vlyard, job) == [(1, EVERY), (2, 2 * EVERY)])
