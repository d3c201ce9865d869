"""Children that are killed under their worker, or that run out of memory: the attempt ends, and the worker lives."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest

from db.models import Outcome
from tests.faults import datasets
from tests.system import System, eventually
from vlyard.jobs.state import State

ATTEMPTS = 3  # of a conversion
_LITTLE_MEMORY = 30_000_000  # bytes: less than what a child imports


@contextmanager
def _each_child(worker: int, strike: Callable[[psutil.Process], object]) -> Iterator[list[int]]:
    """Do something to every child that the worker starts while the block runs; gives the children's pids."""
    struck: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for child in psutil.Process(worker).children():
                with suppress(psutil.NoSuchProcess):
                    if child.pid not in struck and "workers.child" in " ".join(child.cmdline()):
                        strike(child)
                        struck.append(child.pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield struck
    finally:
        over.set()
        thread.join()


def _goes_on(system: System, worker: int, job: UUID, folder: Path) -> bool:
    """Whether the worker that ran the job's attempts does the next job, too, as the same process."""
    caller = system.caller()
    after = system.submit(caller, kind="conversion", source=str(datasets.small(system, caller, folder)))
    assert system.ended(after).state is State.SUCCEEDED
    assert psutil.Process(worker).is_running()
    return {each.worker_id for each in [*system.attempts(job), *system.attempts(after)]} == {
        system.job(after).worker_id
    }


def test_a_job_whose_children_are_killed_is_tried_again_at_once_and_fails_after_its_last_attempt(
    system: System, tmp_path: Path
) -> None:
    # given a worker whose children are killed, as the system kills the largest when memory runs out
    system.start_dispatcher()
    worker = system.start_worker(name="worker")
    caller = system.caller()
    source = datasets.large(system, caller, tmp_path)
    with _each_child(worker, psutil.Process.kill) as killed:
        # when a job runs
        job = system.submit(caller, kind="conversion", source=str(source))
        row = system.ended(job)
    # then each child's death is an attempt, and the last one ends the job and says what happened
    assert len(killed) == ATTEMPTS
    attempts = system.attempts(job)
    assert [each.outcome for each in attempts] == [Outcome.FAILED] * ATTEMPTS
    assert (row.state, row.failures) == (State.FAILED, ATTEMPTS)
    assert row.error is not None
    assert row.error["code"] == "child_died"
    assert "SIGKILL" in row.error["message"]
    assert "memory" in row.error["message"]
    # without a pause in between
    for before, after in pairwise(attempts):
        assert before.ended_at is not None
        assert (after.started_at - before.ended_at).total_seconds() < 5
    assert _goes_on(system, worker, job, tmp_path)


def _group_of_little_memory() -> Path | None:
    """A control group whose largest process the kernel kills at 30 MB; None where such groups are not ours to make."""
    parent = next((Path(path) for path in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup") if Path(path).is_dir()), None)
    if parent is None:
        return None
    group = parent / f"vlyard-test-{uuid4().hex}"
    try:
        group.mkdir()
        limits = [group / name for name in ("memory.limit_in_bytes", "memory.max")]
        next(limit for limit in limits if limit.exists()).write_text(str(_LITTLE_MEMORY))
    except (OSError, StopIteration):
        with suppress(OSError):
            group.rmdir()
        return None
    return group


@pytest.fixture
def confine() -> Iterator[Callable[[psutil.Process], object]]:
    """Gives a process less memory than it needs: the kernel kills it, or has no more for it where it may not."""
    group = _group_of_little_memory()
    if group is None:
        yield lambda child: child.rlimit(psutil.RLIMIT_AS, (_LITTLE_MEMORY, _LITTLE_MEMORY))
        return
    yield lambda child: (group / "cgroup.procs").write_text(str(child.pid))
    eventually(lambda: not (group / "cgroup.procs").read_text(), what="the end of all that was in the group")
    group.rmdir()


@pytest.mark.slow
def test_a_job_whose_children_take_too_much_memory_fails_and_leaves_its_worker_alone(
    system: System, confine: Callable[[psutil.Process], object], tmp_path: Path
) -> None:
    # given a worker whose children may not have the memory that they need
    system.start_dispatcher()
    worker = system.start_worker(name="worker")
    caller = system.caller()
    source = datasets.small(system, caller, tmp_path)
    with _each_child(worker, confine) as confined:
        # when a job runs
        job = system.submit(caller, kind="conversion", source=str(source))
        row = system.ended(job)
    # then it has failed after its last attempt, because they died
    assert len(confined) == ATTEMPTS
    assert (row.state, row.failures, (row.error or {})["code"]) == (State.FAILED, ATTEMPTS, "child_died")
    assert _goes_on(system, worker, job, tmp_path)


pytestmark = pytest.mark.timeout(300)
