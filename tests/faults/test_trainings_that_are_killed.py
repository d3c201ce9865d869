"""Trainings whose worker dies or is told to stop: the next attempt goes on where the last one was."""

import os
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import psutil
import pytest
from sqlalchemy import func, select

from control.accounts import Caller
from db.models import Artefact, Checkpoint, Outcome
from tests.system import System, eventually
from vlyard.demo.shapes import draw_dataset
from vlyard.formats.archive import pack
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

STEPS = 60
SPEC: dict[str, Any] = {
    "kind": "training", "model": "demo", "method": "lora", "max_steps": STEPS, "checkpoint_steps": 10, "held_out": None,
    "micro_batch": 4, "accumulation": 1, "gradient_checkpointing": False, "lora_dropout": 0.1, "seed": 5,
}  # fmt: skip

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def dataset(system: System, tmp_path: Path) -> tuple[Caller, UUID]:
    """Thirty pictures, converted: seven and a half steps an epoch."""
    caller = system.caller()
    draw_dataset(tmp_path / "drawn", 30, 3, side=128)
    convert(tmp_path / "drawn", tmp_path / "made", ConversionOptions(), lambda _, __: None)
    pack(tmp_path / "made", tmp_path / "made.zip")
    content = (tmp_path / "made.zip").read_bytes()
    return caller, system.upload(caller, "made.zip", content, "application/zip")


def _checkpoints(system: System, job: UUID) -> int:
    with system.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(Checkpoint).where(Checkpoint.job_id == job)) or 0


def _losses(system: System, job: UUID, folder: Path) -> list[float]:
    """The loss of every step, as the job's file of metrics has it."""
    with system.database.transaction() as session:
        key = session.scalars(
            select(Artefact.key).where(Artefact.job_id == job, Artefact.name == "metrics.jsonl")
        ).one()
    path = folder / f"{job}.jsonl"
    path.write_bytes(b"".join(system.store.read(key)))
    steps = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    return [step["loss"] for step in steps]


def test_a_training_whose_worker_is_killed_ends_as_if_nothing_had_happened(
    system: System, dataset: tuple[Caller, UUID], tmp_path: Path
) -> None:
    # given one training that nobody disturbs
    caller, source = dataset
    system.start_dispatcher()
    worker = system.start_worker(Device.GPU, name="first")
    straight = system.submit(caller, dataset=str(source), **SPEC)
    assert system.ended(straight, 240).state is State.SUCCEEDED
    # when the worker of another one is killed after a checkpoint
    killed = system.submit(caller, dataset=str(source), **SPEC)
    eventually(lambda: _checkpoints(system, killed), 240, "a checkpoint")
    started = psutil.Process(worker).children(recursive=True)
    system.kill("first")
    eventually(lambda: not any(each.is_running() for each in started), 30, "the end of what it had started")
    system.start_worker(Device.GPU, name="second")
    row = system.ended(killed, 240)
    # then the next one went on from a checkpoint, and every step is as it would have been
    assert row.state is State.SUCCEEDED
    assert [each.outcome for each in system.attempts(killed)] == [Outcome.LOST, Outcome.SUCCEEDED]
    assert (row.result or {})["resumed_at"] >= 10
    assert _losses(system, killed, tmp_path) == pytest.approx(_losses(system, straight, tmp_path), abs=1e-6)


@pytest.mark.slow
@pytest.mark.settings(SHUTDOWN_GRACE_SECONDS="1", STOP_GRACE_SECONDS="30")
def test_a_worker_that_is_told_to_stop_leaves_a_checkpoint_behind(system: System, dataset: tuple[Caller, UUID]) -> None:
    # given a training that makes no checkpoints by itself
    caller, source = dataset
    system.start_dispatcher()
    worker = system.start_worker(Device.GPU, name="first")
    job = system.submit(caller, dataset=str(source), **{**SPEC, "checkpoint_steps": 10 * STEPS})
    eventually(lambda: (system.job(job).progress or {}).get("fraction"), 240, "a step")
    # when its worker is told to stop
    os.kill(worker, signal.SIGTERM)
    # then there is one, and the next attempt goes on from it, and nothing counts against the job
    eventually(lambda: system.job(job).state is State.QUEUED, 60, "the job's way back")
    assert _checkpoints(system, job) == 1
    system.start_worker(Device.GPU, name="second")
    row = system.ended(job, 240)
    assert (row.state, row.failures) == (State.SUCCEEDED, 0)
    assert [each.outcome for each in system.attempts(job)] == [Outcome.RELEASED, Outcome.SUCCEEDED]
    assert (row.result or {})["resumed_at"] >= 1


@pytest.mark.slow
def test_a_training_that_has_too_little_memory_goes_on_with_smaller_micro_batches(
    system: System, dataset: tuple[Caller, UUID]
) -> None:
    # given a training of large micro-batches, whose process may take little more than it has when it begins to read
    caller, source = dataset
    system.start_dispatcher()
    worker = system.start_worker(Device.GPU)
    large = {"micro_batch": 256, "max_steps": 3, "method": "full"}
    job = system.submit(caller, dataset=str(source), **{**SPEC, **large})
    eventually(lambda: (system.job(job).progress or {}).get("text") == "reading the samples", 240, "the reading")
    [training, *_] = [each for each in psutil.Process(worker).children() if each.memory_info().rss > 200e6]
    allowed = training.memory_info().vms + 64_000_000
    training.rlimit(psutil.RLIMIT_AS, (allowed, allowed))
    # when it runs out of memory, then it is tried once more with half of them at a time, and twice as many times
    row = system.ended(job, 240)
    attempts = system.attempts(job)
    assert [(each.outcome, (each.error or {}).get("code")) for each in attempts] == [
        (Outcome.FAILED, "out_of_memory"), (Outcome.SUCCEEDED, None),
    ]  # fmt: skip
    assert row.result is not None
    assert (row.result["micro_batch"], row.result["accumulation"]) == (128, 2)
