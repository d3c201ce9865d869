"""A full disk under a worker: the attempt says so, the job is tried again, and the worker lives."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from control.stack.supervisor import Process
from db.models import Outcome
from tests.conftest import IN_CI
from tests.faults import datasets
from tests.system import System
from vlyard.jobs.state import State

_MEGABYTES = 4


def _mount(folder: Path, *command: str) -> tuple[str, ...]:
    """The command, in a place of its own in which the folder is a small disk: nobody else sees it."""
    mount = f'mount -t tmpfs -o size={_MEGABYTES}m tmpfs "$0" && exec "$@"'
    return "unshare", *([] if os.geteuid() == 0 else ["-r"]), "-m", "sh", "-c", mount, str(folder), *command


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """Where a small disk can be mounted; fails in CI, and skips elsewhere, where the system does not let us."""
    folder = tmp_path / "disk"
    folder.mkdir()
    tried = subprocess.run(_mount(folder, "true"), capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        reason = f"a full disk cannot be had here: {tried.stderr.strip()} (run as root, or allow user namespaces)"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


def _start_worker(system: System, disk: Path) -> int:
    """A worker whose scratch folders lie on the disk."""
    program = str(Path(sys.executable).with_name("vlyard"))
    environment = {**system.environment, "VLYARD_WORK_DIR": str(disk), "PYTHONUNBUFFERED": "1"}
    command = _mount(disk, program, "worker", "--device", "cpu", "--name", "small-disk")

    def is_registered() -> bool:
        return any(row.name == "small-disk" for row in system.living())

    system.supervisor.start(Process("worker", command, is_registered, environment, patience=120))
    return system.supervisor.pid("worker")


@pytest.mark.timeout(300)
def test_a_job_that_fills_the_disk_fails_for_that_reason_and_the_next_one_has_the_room_again(
    system: System, small_disk: Path, tmp_path: Path
) -> None:
    # given a worker on a small disk
    system.start_dispatcher()
    worker = _start_worker(system, small_disk)
    caller = system.caller()
    # when a job writes more than there is room for
    large = system.submit(caller, kind="conversion", source=str(datasets.large(system, caller, tmp_path)))
    row = system.ended(large)
    # then every attempt says so, and each was tried again until there were no more
    attempts = system.attempts(large)
    assert [each.outcome for each in attempts] == [Outcome.FAILED] * 3
    assert {((each.error or {})["code"], (each.error or {})["blame"]) for each in attempts} == {
        ("disk_full", "transient")
    }
    assert (row.state, row.failures) == (State.FAILED, 3)
    # and the same worker does what fits
    small = system.submit(caller, kind="conversion", source=str(datasets.small(system, caller, tmp_path)))
    assert system.ended(small).state is State.SUCCEEDED
    assert psutil.Process(worker).is_running()
    assert {each.worker_id for each in [*attempts, *system.attempts(small)]} == {system.job(small).worker_id}
