"""Handlers in processes of their own: what comes back, and that nothing is left of them."""

import os
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from tests.qwen.training_sets import LOST, getting_lost
from tests.system import System, eventually
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import Cancelled, ChildDied
from vlyard.files import ArtefactKind, Stored, sha256_of
from vlyard.formats.archive import pack
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from workers.context import Checkpoint
from workers.isolation import Assignment, HandlerFailed, run_isolated
from workers.lease import Hold

GRACE_SECONDS = 1.0


@pytest.fixture
def child_environment(system: System) -> Iterator[None]:
    """The settings that a worker's environment gives to its children."""
    before = dict(os.environ)
    os.environ.update(system.environment)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def hold() -> Hold:
    return Hold((uuid4(), 1), time.monotonic(), killable=True)


def _assignment(system: System, archive: Path, folder: Path) -> Assignment:
    folder.mkdir()
    key = f"tests/{uuid4()}/{archive.name}"
    size, sha256 = system.store.put(key, archive, "application/zip")
    source = Stored(uuid4(), archive.name, "application/zip", key, size, sha256)
    return Assignment(
        kind="conversion",
        spec={"kind": "conversion", "source": str(source.id)},
        job=uuid4(),
        attempt=1,
        folder=folder,
        inputs=[source],
        prefix=f"tests/{uuid4()}",
    )


def _small(folder: Path) -> Path:
    draw_dataset(folder / "shapes", count=2, seed=1)
    pack(folder / "shapes", folder / "shapes.zip")
    return folder / "shapes.zip"


def _packed(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    pack(folder, archive)
    return archive


def _large(folder: Path) -> Path:
    """A set whose conversion takes many seconds."""
    draw_dataset(folder / "one", count=1, seed=1, side=32)
    with zipfile.ZipFile(folder / "large.zip", "w") as archive:
        for number in range(4_000):
            archive.write(folder / "one" / "images" / "0000.png", f"images/{number}.png")
            archive.write(folder / "one" / "labels" / "0000.txt", f"labels/{number}.txt")
    return folder / "large.zip"


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "workers.child" in " ".join(child.cmdline())]


def _is_idle(process: psutil.Process) -> bool:
    """Whether the process does nothing for two seconds."""
    before = process.cpu_times()
    time.sleep(2)
    return bool(process.cpu_times()[:2] == before[:2])


@pytest.mark.usefixtures("child_environment")
def test_a_child_brings_back_its_result_and_what_it_published(system: System, hold: Hold, tmp_path: Path) -> None:
    # given an assignment
    assignment = _assignment(system, _small(tmp_path), tmp_path / "scratch")
    # when a child does it
    report = run_isolated(assignment, hold, GRACE_SECONDS)
    # then its result names what it stored, and the bytes are there
    assert report.result is not None
    assert report.result["samples"] == 2
    assert {str(file.id) for file in report.published} == set(report.result["artefacts"].values())  # type: ignore[attr-defined]
    for file in report.published:
        system.store.fetch(file, tmp_path / file.name)
        assert sha256_of(tmp_path / file.name) == file.sha256
    assert hold.take_progress() is not None
    assert not _children()


@pytest.mark.usefixtures("child_environment")
def test_an_error_in_a_child_comes_back_with_its_complaints(system: System, hold: Hold, tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"not an archive")
    assignment = _assignment(system, tmp_path / "no.zip", tmp_path / "scratch")
    with pytest.raises(HandlerFailed) as failed:
        run_isolated(assignment, hold, GRACE_SECONDS)
    assert failed.value.failure.blame == "user"
    assert "no.zip" in str(failed.value.failure)


@pytest.mark.usefixtures("child_environment")
def test_what_a_child_rescued_before_it_failed_comes_back_with_its_error(
    system: System, hold: Hold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a training that gets lost after a good checkpoint
    getting_lost(tmp_path / "models" / "fragile", tmp_path / "data")
    monkeypatch.setenv("VLYARD_MODELS_DIR", str(tmp_path / "models"))
    assignment = _assignment(system, _packed(tmp_path / "data"), tmp_path / "scratch")
    spec = {"kind": "training", "model": "fragile", "dataset": str(assignment.inputs[0].id), **LOST}
    training = assignment.model_copy(update={"kind": "training", "spec": {**spec, "checkpoint_steps": 4}})
    # when a child does it, then its error comes with what it rescued
    with pytest.raises(HandlerFailed) as failed:
        run_isolated(training, hold, GRACE_SECONDS)
    [tree] = failed.value.rescued
    assert (tree.name, tree.kind) == ("model", ArtefactKind.TREE)
    assert str(tree.id) in str(failed.value.failure)


@pytest.mark.usefixtures("child_environment")
def test_a_child_that_is_killed_from_outside_is_told_by_its_signal(system: System, hold: Hold, tmp_path: Path) -> None:
    # given a child at work
    assignment = _assignment(system, _large(tmp_path), tmp_path / "scratch")

    def kill() -> None:
        (child,) = eventually(_children)
        child.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    # when something kills it, then the error says what did
    with pytest.raises(ChildDied, match="SIGKILL"):
        run_isolated(assignment, hold, GRACE_SECONDS)
    killer.join()


@pytest.mark.usefixtures("child_environment")
def test_a_grandchild_that_is_killed_ends_the_attempt_which_says_so_and_leaves_none_behind(
    system: System, hold: Hold, tmp_path: Path
) -> None:
    # given a child at work, with helpers of its own
    assignment = _assignment(system, _large(tmp_path), tmp_path / "scratch")
    family: list[psutil.Process] = []

    def kill() -> None:
        (child,) = eventually(_children)
        family.extend(eventually(lambda: child.children(recursive=True)))
        family[0].suspend()  # with what it is given to do
        eventually(lambda: _is_idle(child), 90, "the child's waiting for it")
        family[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    # when one of those is killed, then the attempt fails for that, and does not wait for it
    with pytest.raises(HandlerFailed) as caught:
        run_isolated(assignment, hold, GRACE_SECONDS)
    killer.join()
    assert caught.value.failure.code == "child_died"
    eventually(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family))


@pytest.mark.usefixtures("child_environment")
def test_a_child_that_ignores_the_request_to_stop_is_killed_after_its_grace(
    system: System, hold: Hold, tmp_path: Path
) -> None:
    # given a child that cannot hear: it is frozen
    assignment = _assignment(system, _large(tmp_path), tmp_path / "scratch")

    def freeze_and_stop() -> None:
        (child,) = eventually(_children)
        child.suspend()
        hold.stop(Cancelled())

    stopper = threading.Thread(target=freeze_and_stop)
    began = time.monotonic()
    stopper.start()
    # when it is told to stop, then it is gone soon after, and the reason is the one given
    with pytest.raises(Cancelled):
        run_isolated(assignment, hold, GRACE_SECONDS)
    stopper.join()
    assert time.monotonic() - began < 60
    assert not _children()


@pytest.mark.usefixtures("child_environment")
def test_a_training_that_is_cancelled_leaves_a_checkpoint_and_no_child(
    system: System, hold: Hold, tmp_path: Path
) -> None:
    # given a training that would go on for hours, and makes no checkpoint by itself
    draw_dataset(tmp_path / "drawn", count=4, seed=1, side=64)
    convert(tmp_path / "drawn", tmp_path / "made", ConversionOptions(), lambda *_: None)
    pack(tmp_path / "made", tmp_path / "made.zip")
    given = _assignment(system, tmp_path / "made.zip", tmp_path / "scratch")
    endless = {"max_steps": 100_000, "checkpoint_steps": 100_000, "micro_batch": 1, "accumulation": 1}
    spec = {"kind": "training", "dataset": str(given.inputs[0].id), **endless}
    assignment = given.model_copy(update={"kind": "training", "spec": spec})
    kept: list[Checkpoint] = []

    def cancel_after_a_step() -> None:
        eventually(lambda: "step" in str(hold.take_progress()), 120, "a step")
        hold.stop(Cancelled())

    canceller = threading.Thread(target=cancel_after_a_step)
    canceller.start()
    # when it is cancelled, then it is, with what it had learned by then in the store
    with pytest.raises(Cancelled):
        run_isolated(assignment, hold, 60, kept=kept.append)
    canceller.join()
    assert [each.step >= 1 for each in kept] == [True]
    assert not _children()


def test_a_killed_worker_leaves_no_child_behind(system: System, tmp_path: Path) -> None:
    # given a worker with a child at work
    system.start_dispatcher()
    worker = system.start_worker(name="worker")
    source = system.upload(caller := system.caller(), "large.zip", _large(tmp_path).read_bytes())
    system.submit(caller, kind="conversion", source=str(source))
    (child,) = eventually(lambda: psutil.Process(worker).children())
    assert "workers.child" in " ".join(child.cmdline())
    # when the worker is killed
    system.kill("worker")
    # then the child ends by itself
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, seconds=10)


def test_a_child_is_given_no_password_but_the_stores(system: System, tmp_path: Path) -> None:
    # given a worker with a child at work
    system.start_dispatcher()
    worker = system.start_worker(name="worker")
    source = system.upload(caller := system.caller(), "large.zip", _large(tmp_path).read_bytes())
    job = system.submit(caller, kind="conversion", source=str(source))
    # when one looks at the child's environment
    (child,) = eventually(lambda: psutil.Process(worker).children())
    names = set(child.environ())
    # then the store's secret is there, and the database's and the queue's are not
    assert "VLYARD_S3_SECRET_KEY" in names
    assert not names & {"VLYARD_DATABASE_URL", "VLYARD_REDIS_URL", "VLYARD_FLOWER_PASSWORD"}
    system.cancel(caller, job)
    assert system.ended(job).state == "cancelled"
