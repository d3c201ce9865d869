"""An attempt's log: lines kept whole, bounded, readable by anybody, without secrets; and where they are stored."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from control.settings import Settings
from db import logs
from db.logs import Piece, Place
from tests.db import rows
from tests.system import System
from vlyard.files import Stored, sha256_of
from workers.isolation import Assignment, HandlerFailed, run_isolated
from workers.lease import Hold
from workers.logs import LONGEST_LINE, LONGEST_LOG, AttemptLog, secrets_of

SECRET = "sk/very+secret"


@pytest.fixture
def log() -> Iterator[AttemptLog]:
    log = AttemptLog((uuid4(), 1), {SECRET, SECRET + "-and-longer"})
    yield log
    log.close()


def said(log: AttemptLog) -> str:
    return "".join(piece.text for piece in log.pending())


# --- lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fed", "kept"),
    [
        pytest.param([b"one\ntwo\n"], "one\ntwo\n", id="lines as they are"),
        pytest.param([b"o", b"ne\nt", b"wo"], "one\ntwo\n", id="cut anywhere, the last without its end"),
        pytest.param(["größe\n".encode()[:3], "größe\n".encode()[3:]], "größe\n", id="cut within a letter"),
        pytest.param([b"a\xff\x00b\n"], "a\ufffd\ufffdb\n", id="bytes that are no text, and NUL"),
        pytest.param([b"ab\xc3"], "ab\ufffd\n", id="an end within a letter"),
        pytest.param([b"one\r\ntwo\r\n"], "one\ntwo\n", id="lines of another system"),
        pytest.param([b"one\r", b"\ntwo\n"], "one\ntwo\n", id="cut within such an end"),
        pytest.param([b"1%\r2%", b"\r3%\n"], "3%\n", id="a bar that draws over itself"),
        pytest.param([b""], "", id="nothing"),
        pytest.param([b"\n"], "\n", id="an empty line"),
        pytest.param([f"key {SECRET}!\n".encode()], "key ***!\n", id="a secret"),
        pytest.param([b"key sk/very", b"+secret\n"], "key ***\n", id="a secret in two halves"),
        pytest.param([f"key {SECRET}-and-longer\n".encode()], "key ***\n", id="a secret that holds another"),
    ],
)
def test_what_comes_through_a_pipe_is_kept_in_readable_lines(log: AttemptLog, fed: list[bytes], kept: str) -> None:
    for data in fed:
        log.feed(data)
    log.end()
    assert said(log) == kept


def test_a_line_that_has_not_ended_is_not_told_yet(log: AttemptLog) -> None:
    log.feed(b"one\ntw")
    assert said(log) == "one\n"


def test_what_a_handler_writes_is_lines(log: AttemptLog) -> None:
    log.write("one")
    log.write("two\nthree\n")
    log.write("half a pair \ud800")
    assert said(log) == "one\ntwo\nthree\nhalf a pair ?\n"


def test_a_long_line_is_cut_and_says_so(log: AttemptLog) -> None:
    for _ in range(100):
        log.feed(b"x" * 1000)
    log.feed(b"\nnext\n")
    first, second = said(log).splitlines()
    assert len(first.encode()) <= LONGEST_LINE
    assert first.endswith("x … (cut)")
    assert second == "next"


def test_a_line_without_end_takes_no_memory_and_shows_no_half_of_a_secret(log: AttemptLog) -> None:
    for _ in range(1000):
        log.feed((SECRET * 10 + "é").encode())
    assert len(log._partial) < 2 * LONGEST_LINE
    log.end()
    assert "very" not in said(log)


def test_a_long_log_ends_with_a_line_that_says_so(log: AttemptLog) -> None:
    line = "x" * 999
    for _ in range(LONGEST_LOG // 1000 + 100):
        log.write(line)
    whole = said(log)
    assert LONGEST_LOG - 2000 < len(whole) <= LONGEST_LOG
    assert whole.splitlines()[-1] == "(the log ends here: an attempt may say 10 MiB)"
    assert whole.count("ends here") == 1


def test_what_is_said_after_a_log_was_closed_is_not_kept_and_what_is_pending_is(log: AttemptLog) -> None:
    log.write("one")
    log.close()
    log.write("two")
    assert said(log) == "one\n"


def test_the_settings_secrets_are_known_as_they_stand_in_urls_too() -> None:
    url = "postgresql://me:a%2Fpassword@db/x"
    settings = Settings.model_validate({"database_url": url, "s3_secret_key": SECRET, "flower_password": "abc"})
    assert {url, "a/password", "a%2Fpassword", SECRET, "sk%2Fvery%2Bsecret"} <= secrets_of(settings)
    assert not {"", "abc"} & secrets_of(settings)


# --- pieces ---------------------------------------------------------------------------------------------------


def test_a_piece_comes_again_until_it_is_known_to_be_stored(log: AttemptLog) -> None:
    log.write("one")
    [first] = log.pending()
    log.write("two")
    assert [piece.text for piece in log.pending()] == ["one\n", "two\n"]
    log.stored([first, Piece(uuid4(), 1, 2, "another attempt's")])
    assert [(piece.seq, piece.text) for piece in log.pending()] == [(2, "two\n")]


def test_pieces_are_added_once_and_only_by_the_worker_that_holds_the_attempt(system: System) -> None:
    # given an attempt that a worker holds
    with system.database.transaction() as session:
        holder, other = rows.worker(session), rows.worker(session)
        job, _ = rows.running(session, rows.team(session), holder)
    first, second = Piece(job, 1, 1, "one\n"), Piece(job, 1, 2, "two\n")
    # when its pieces come, some of them twice, and others' do
    with system.database.transaction() as session:
        logs.append(session, holder, [first])
        logs.append(session, holder, [first, second, Piece(job, 2, 1, "of no attempt\n")])
        logs.append(session, other, [Piece(job, 1, 3, "another worker's\n")])
        logs.append(session, holder, [])
    # then each of its own is there once, and nothing else is
    with system.database.transaction() as session:
        start, middle, end = Place(job, 1, 0), Place(job, 1, 1), Place(job, 1, 2)
        found = logs.news(session, [start, middle, end, Place(job, 2, 0)], 10)
    assert {place: [row.text for row in told.pieces] for place, told in found.items()} == {
        start: ["one\n", "two\n"],
        middle: ["two\n"],
    }
    assert not any(told.over for told in found.values())


def test_the_whole_log_becomes_a_file_of_the_attempt(system: System, log: AttemptLog, tmp_path: Path) -> None:
    assert log.publish(system.store, tmp_path, "tests/nothing-said") is None
    log.write("one")
    log.stored(log.pending())
    log.write("two")
    file = log.publish(system.store, tmp_path, f"tests/{uuid4()}")
    assert file is not None
    system.store.fetch(file, tmp_path / "fetched")
    assert (file.name, (tmp_path / "fetched").read_text()) == ("log.txt", "one\ntwo\n")
    assert sha256_of(tmp_path / "fetched") == file.sha256


# --- children -------------------------------------------------------------------------------------------------


@pytest.fixture
def child_environment(system: System) -> Iterator[None]:
    """The settings that a worker's environment gives to its children."""
    before = dict(os.environ)
    os.environ.update(system.environment)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("child_environment")
def test_what_a_child_prints_is_in_the_log_before_its_failure_is_told(
    system: System, log: AttemptLog, tmp_path: Path
) -> None:
    # given an assignment that no handler foresees: its folder is in a file, which is named like a secret
    (tmp_path / "file").write_bytes(b"")
    assignment = Assignment(
        kind="conversion",
        spec={"kind": "conversion", "source": str(UUID(int=1))},
        job=uuid4(),
        attempt=1,
        folder=tmp_path / "file" / SECRET,
        inputs=[Stored(UUID(int=1), "a.zip", "application/zip", "tests/a.zip", 1, "0" * 64)],
        prefix="tests",
    )
    hold = Hold((assignment.job, 1), time.monotonic(), killable=True)
    # when a child fails at it
    with pytest.raises(HandlerFailed):
        run_isolated(assignment, hold, 1.0, log)
    # then its traceback was printed, and the secret was not
    whole = said(log)
    assert "Traceback" in whole
    assert "NotADirectoryError" in whole
    assert "***" in whole
    assert "Fatal Python error" not in whole  # it ended as it should
    assert SECRET not in whole
