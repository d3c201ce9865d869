"""S3 answering with errors, cutting uploads short, gone and hanging: attempts are tried again, results never lie."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from PIL import Image

from control.accounts import Caller
from control.stack.supervisor import Supervisor
from control.uploads import stored
from db.models import Artefact, ArtefactState, Outcome
from tests.faults.breaking import Servers
from tests.faults.gate import Fault, Gate
from tests.language.yolo_sets import LINE, write_set
from tests.system import System, eventually
from vlyard.formats.archive import pack
from vlyard.jobs.state import State
from workers.logs import NAME as LOG


@pytest.fixture
def gate(own_servers: Servers) -> Iterator[Gate]:
    """What stands between this test's VLyard and S3."""
    with Gate(int(own_servers.settings["VLYARD_S3_ENDPOINT"].rpartition(":")[2])).open() as gate:
        yield gate


@pytest.fixture
def gated(breakable: System, gate: Gate, tmp_path: Path) -> Iterator[System]:
    """A VLyard that reaches S3 through the gate, with a dispatcher and a worker."""
    logs = tmp_path / "gated"
    endpoint = f"http://127.0.0.1:{gate.port}"
    with Supervisor(logs) as supervisor:
        system = System({**breakable.environment, "VLYARD_S3_ENDPOINT": endpoint}, supervisor, logs)
        system.start_dispatcher()
        system.start_worker(name="worker")
        yield system
        system.close()


def test_an_attempt_that_s3_fails_is_tried_again_and_its_result_is_not_recorded_before_its_files(
    gated: System, gate: Gate, own_servers: Servers, tmp_path: Path
) -> None:
    caller, source = _source(gated, tmp_path)
    for fault in (Fault.REFUSE_UPLOADS, Fault.CUT_UPLOADS):
        # given an S3 that takes no file, or half of it
        gate.set(fault)
        # when a job makes files
        job = gated.submit(caller, kind="conversion", source=str(source))
        # then its attempt fails because of that, with no result and no file of the job's
        _await_failed_attempt(gated, job)
        assert gate.met > 0
        # and when S3 is well, the next attempt's files are there, byte for byte
        gate.set(None)
        _assert_succeeded(gated, job, tmp_path)
    # and as much holds where S3 is gone
    own_servers.kill("seaweedfs")
    job = gated.submit(caller, kind="conversion", source=str(source))
    _await_failed_attempt(gated, job)
    own_servers.restart("seaweedfs")
    _assert_succeeded(gated, job, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_attempt_that_hangs_with_s3_fails_in_the_end_and_the_next_one_succeeds(
    gated: System, own_servers: Servers, tmp_path: Path
) -> None:
    caller, source = _source(gated, tmp_path)
    with own_servers.frozen("seaweedfs"):
        job = gated.submit(caller, kind="conversion", source=str(source))
        _await_failed_attempt(gated, job, seconds=200)
    _assert_succeeded(gated, job, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_an_attempt_whose_uploads_hang_fails_in_the_end_and_records_no_result(
    gated: System, gate: Gate, tmp_path: Path
) -> None:
    # given an S3 that gives files, and takes none
    caller, source = _source(gated, tmp_path)
    gate.set(Fault.HOLD_UPLOADS)
    # when a job has done its work and stores what it made, then its attempt fails because of that
    job = gated.submit(caller, kind="conversion", source=str(source))
    _await_failed_attempt(gated, job, seconds=400)
    assert gate.met > 0
    # and when S3 is well, the next one's files are there
    gate.set(None)
    _assert_succeeded(gated, job, tmp_path)


def _source(system: System, folder: Path) -> tuple[Caller, UUID]:
    """An uploaded data set, whose conversion is longer than what the gate lets through."""
    caller = system.caller()
    root = write_set(folder / "set", {"data.yaml": "train: images\nnames: [cat]\n", "labels/a.txt": LINE})
    (root / "images").mkdir()
    noise = Image.frombytes("RGB", (120, 100), os.urandom(120 * 100 * 3))
    noise.save(root / "images" / "a.png")
    pack(root, folder / "set.zip")
    return caller, system.upload(caller, "set.zip", (folder / "set.zip").read_bytes(), "application/zip")


def _await_failed_attempt(system: System, job: UUID, seconds: float = 60) -> None:
    eventually(
        lambda: any(attempt.outcome is Outcome.FAILED for attempt in system.attempts(job)), seconds, "a failed attempt"
    )
    first = system.attempts(job)[0]
    assert first.error is not None
    assert (first.error["code"], first.error["blame"]) == ("unavailable", "outage")
    assert system.job(job).result is None
    assert _files(system, job) == []


def _assert_succeeded(system: System, job: UUID, folder: Path) -> None:
    row = system.ended(job)
    assert (row.state, row.attempt) == (State.SUCCEEDED, len(system.attempts(job)))
    assert row.attempt > 1
    assert row.result is not None
    files = {file.id: file for file in _files(system, job)}
    named = [UUID(each) for each in row.result["artefacts"].values()]
    assert len(named) == 6
    for each in named:
        assert files[each].attempt == row.attempt
        assert f"/attempts/{row.attempt}/" in files[each].key
        system.store.fetch(stored(files[each]), folder / "fetched")  # compares the bytes with their digest


def _files(system: System, job: UUID) -> list[Artefact]:
    """What the job made, its logs apart."""
    with system.database.transaction() as session:
        made = session.query(Artefact).filter_by(job_id=job, state=ArtefactState.READY)
        return [file for file in made if file.name != LOG]
