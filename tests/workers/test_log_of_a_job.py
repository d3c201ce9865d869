"""What a job's handler says, through a real worker: to be read while it runs, and kept when it has ended."""

import time
from pathlib import Path
from uuid import UUID

import psutil
from sqlalchemy import select

from db import artefacts, logs
from db.logs import Place
from db.models import JobEvent
from tests.system import System, eventually
from vlyard.demo.shapes import draw_dataset
from vlyard.formats.archive import pack
from vlyard.jobs.state import State

PRINTS = {"PYTHONPROFILEIMPORTTIME": "1"}  # has every Python process print what it imports, to standard error


def test_what_an_isolated_handler_prints_is_in_the_rows_and_in_an_artefact(system: System, tmp_path: Path) -> None:
    # given a worker whose children print something, and a data set
    system.environment.update(PRINTS)
    system.start_dispatcher()
    worker = system.start_worker()
    draw_dataset(tmp_path / "shapes", count=2, seed=1)
    pack(tmp_path / "shapes", tmp_path / "shapes.zip")
    source = system.upload(caller := system.caller(), "shapes.zip", (tmp_path / "shapes.zip").read_bytes())
    job = system.submit(caller, kind="conversion", source=str(source))
    # when it is being converted, then what was printed by now can be read
    [child] = eventually(lambda: psutil.Process(worker).children(), 60, "the child")
    time.sleep(0.3)
    child.suspend()
    assert eventually(lambda: _said(system, job).pieces, 30, "something to read")
    assert (system.job(job).state, _said(system, job).over) == (State.RUNNING, False)
    child.resume()
    # and when it has been converted
    assert system.ended(job).state is State.SUCCEEDED
    # then what was printed is in the rows, whole, and in a file of the attempt
    with system.database.transaction() as session:
        [file] = [row for row in artefacts.made_by(session, caller.team, job) if row.name == "log.txt"]
    said = _said(system, job)
    text = "".join(piece.text for piece in said.pieces)
    assert said.over
    assert "vlyard.formats.convert" in text
    assert "Fatal" not in text
    assert file.attempt == 1
    assert b"".join(system.store.read(file.key)).decode() == text


def _said(system: System, job: UUID) -> logs.Said:
    with system.database.transaction() as session:
        return logs.news(session, [Place(job, 1, 0)], 100).get(Place(job, 1, 0), logs.Said((), over=False))


def test_an_attempt_that_fails_keeps_its_log(system: System) -> None:
    system.environment.update(PRINTS)
    system.start_dispatcher()
    system.start_worker()
    source = system.upload(caller := system.caller(), "no.zip", b"not an archive")
    job = system.submit(caller, kind="conversion", source=str(source))
    assert system.ended(job).state is State.FAILED
    with system.database.transaction() as session:
        assert [row.name for row in artefacts.made_by(session, caller.team, job)] == ["log.txt"]


def test_a_handler_that_says_nothing_leaves_no_log(system: System) -> None:
    system.start_dispatcher()
    system.start_worker()
    job = system.submit(caller := system.caller(), echo="hello")
    assert system.ended(job).state is State.SUCCEEDED
    with system.database.transaction() as session:
        assert not artefacts.made_by(session, caller.team, job)


def test_progress_says_when_it_will_be_done(system: System) -> None:
    system.start_dispatcher()
    system.start_worker()
    job = system.submit(seconds=6)

    def told() -> list[float]:
        with system.database.transaction() as session:
            rows = session.scalars(select(JobEvent.data).where(JobEvent.job_id == job, JobEvent.type == "progress"))
            return [row["eta_seconds"] for row in rows if "eta_seconds" in row]

    eventually(told)
    assert 0 <= told()[0] <= 6
