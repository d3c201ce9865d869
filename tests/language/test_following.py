"""Following a job through the client and the command line: every event once, whatever breaks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.language.small_api import KEY, Fault, Reply, SmallApi, problem, serving
from vlyard import Client
from vlyard.cli.watch import progress_text
from vlyard.client.following import follow_stream
from vlyard.errors import NotFound, Unavailable, VLyardError
from vlyard.jobs.events import Event
from vlyard.jobs.output import Artefacts, LogPage, LogPiece
from vlyard.jobs.state import State
from vlyard.jobs.view import Progress

ODD = "a\x85b\u2028c\u2029d\x0be\x0cf\x1cg"  # with all that ends a line somewhere, but not in a stream of events
DONE = b"event: done\ndata: {}\n\n"
SUCCEEDED = {"state": "succeeded", "attempt": 1, "result": {"echo": "hello", "attempt": 1}}


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


@pytest.fixture
def client(api: SmallApi) -> Iterator[Client]:
    with Client(api.url, KEY, timeout=3) as client:
        yield client


def event(seq: int, type: str = "progress", **data: Any) -> bytes:
    told = Event(seq=seq, at=datetime.now(UTC), type=type, data=data)
    return f"id: {seq}\nevent: {type}\ndata: {told.model_dump_json()}\n\n".encode()


def answers(api: SmallApi, *bodies: bytes | Fault) -> str:
    """A job whose stream of events is answered with one of these after the other; returns its id."""
    job = str(api.add_job(**SUCCEEDED).id)
    headers = {"Content-Type": "text/event-stream"}
    faults = [each if isinstance(each, Fault) else Fault(Reply(200, each, headers)) for each in bodies]
    api.faults[f"GET /v1/jobs/{job}/events"] = faults
    return job


def asked_after(api: SmallApi) -> list[str]:
    return [asked.headers["Last-Event-ID"] for asked in api.asked if asked.path.endswith("/events")]


def test_events_come_in_order_until_the_stream_is_done(api: SmallApi, client: Client) -> None:
    job = answers(api, event(1, "state", state="queued") + b": still here\n\n" + event(2, fraction=0.5) + DONE)
    first, second = client.events(job)
    assert (first.seq, first.type, first.data) == (1, "state", {"state": "queued"})
    assert (second.seq, second.type, second.data) == (2, "progress", {"fraction": 0.5})


def test_a_stream_that_breaks_off_goes_on_after_the_last_whole_event(api: SmallApi, client: Client) -> None:
    # given a stream that breaks in the middle of its third event, one that ends early, and an API that is away
    whole = event(1) + event(2)
    broken = Fault(Reply(200, whole + event(3)), cut_after=len(whole) + 20)
    away = Fault(problem(503, "unavailable", "the database does not answer"))
    job = answers(api, broken, event(3), away, event(3) + event(4) + DONE)
    # when it is followed
    seen = [told.seq for told in client.events(job)]
    # then each event came once, and each try asked for what was missing
    assert seen == [1, 2, 3, 4]
    assert asked_after(api) == ["0", "2", "3", "3"]


def test_events_begin_after_the_number_that_was_asked_for(api: SmallApi, client: Client) -> None:
    job = answers(api, event(8) + DONE)
    assert [told.seq for told in client.events(job, after=7)] == [8]
    assert asked_after(api) == ["7"]


def test_an_api_that_stays_away_is_told_after_the_clients_timeout(api: SmallApi, client: Client) -> None:
    job = answers(api, *[Fault(problem(503, "unavailable", "the database does not answer"))] * 100)
    with pytest.raises(Unavailable, match="does not answer"):
        list(client.events(job))


def test_a_job_that_there_is_not_has_no_events(api: SmallApi, client: Client) -> None:
    job = answers(api, Fault(problem(404, "not_found", "there is no such job")))
    with pytest.raises(NotFound):
        list(client.events(job))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_of_a_stream_ends_where_the_standard_says_and_nowhere_else_in_what_is_said(end: str) -> None:
    stream = (event(1, text=ODD) + b": still here\n\n" + event(2, text="é") + DONE).decode().replace("\n", end).encode()
    reply = httpx.Response(200, content=(bytes([byte]) for byte in stream))

    first, second = (json.loads(message.data) for message in follow_stream(lambda _: reply, 0))

    assert (first["data"], second["data"]) == ({"text": ODD}, {"text": "é"})


def test_an_answer_that_is_no_event_is_told_as_such(api: SmallApi, client: Client) -> None:
    job = answers(api, b"id: 1\nevent: state\ndata: {}\n\n")
    with pytest.raises(VLyardError, match="did not answer as VLyard's API does"):
        list(client.events(job))


# --- logs -----------------------------------------------------------------------------------------------------


def piece(seq: int) -> LogPiece:
    return LogPiece(seq=seq, at=datetime.now(UTC), text=f"line {seq}\n")


def page(*seqs: int, after: int = 0, ended: bool = False) -> Fault:
    told = LogPage(attempt=2, data=tuple(map(piece, seqs)), next_after=max(seqs, default=after), ended=ended)
    return Fault(Reply(200, told.model_dump_json().encode()))


def logged(api: SmallApi, *replies: Fault) -> str:
    """A job whose log is answered with one of these after the other; returns its id."""
    job = str(api.add_job(**SUCCEEDED).id)
    api.faults[f"GET /v1/jobs/{job}/logs"] = list(replies)
    return job


def streamed(*seqs: int) -> bytes:
    return b"".join(f"id: {n}\nevent: log\ndata: {piece(n).model_dump_json()}\n\n".encode() for n in seqs)


def test_a_log_is_read_to_where_it_goes_by_now(api: SmallApi, client: Client) -> None:
    job = logged(api, page(1, 2), page(3), page(after=3))
    assert list(client.log(job)) == ["line 1\n", "line 2\n", "line 3\n"]
    assert [asked.query for asked in api.asked] == [
        {},
        {"attempt": "2", "after": "2"},
        {"attempt": "2", "after": "3"},
    ]


def test_a_log_is_followed_through_lost_connections_within_one_attempt(api: SmallApi, client: Client) -> None:
    headers = {"Content-Type": "text/event-stream"}
    broken = Fault(Reply(200, streamed(2, 3), headers), cut_after=len(streamed(2)) + 9)
    rest = Fault(Reply(200, streamed(3, 4) + DONE, headers))
    job = logged(api, page(1), page(after=1), broken, rest)
    assert list(client.log(job, 2, follow=True)) == [f"line {number}\n" for number in range(1, 5)]
    assert [asked.query["attempt"] for asked in api.asked] == ["2"] * 4
    assert [asked.headers["Last-Event-ID"] for asked in api.asked[2:]] == ["1", "2"]


def test_a_log_that_has_ended_is_not_followed(api: SmallApi, client: Client) -> None:
    job = logged(api, page(1, ended=True), page(after=1, ended=True))
    assert list(client.log(job, follow=True)) == ["line 1\n"]


def test_the_files_that_a_job_made_are_listed(api: SmallApi, client: Client) -> None:
    job, file = api.add_job(), api.add_artefact("log.txt", b"line 1")
    told = Artefacts(data=(file,)).model_dump_json().encode()
    api.faults[f"GET /v1/jobs/{job.id}/artefacts"] = [Fault(Reply(200, told))]
    assert client.artefacts(job.id) == (file,)


# --- the command line -----------------------------------------------------------------------------------------


def run(api: SmallApi, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLYARD_")}
    return subprocess.run(
        [sys.executable, "-c", "from vlyard.cli.app import main; main()", *words],
        env=kept | {"VLYARD_URL": api.url, "VLYARD_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_watch_tells_what_happens_line_by_line(api: SmallApi) -> None:
    moves = event(1, "state", state="queued") + event(2, "state", state="running", attempt=1)
    ends = event(4, "state", state="succeeded", attempt=1, outcome="succeeded", error=None)
    job = answers(api, moves + event(3, fraction=0.5, text="[half] way") + ends + DONE)
    ran = run(api, "watch", job)
    assert (ran.returncode, ran.stderr) == (0, "")
    told = [line.partition("  ")[2] for line in ran.stdout.splitlines()]
    assert told == ["queued", "running, attempt 1", "50% · [half] way", "succeeded, attempt 1"]


def test_watch_tells_what_a_training_measures_in_a_line(api: SmallApi) -> None:
    steps: list[dict[str, Any]] = [
        {"step": 7, "steps": 20, "loss": 0.12345, "learning_rate": 1e-4, "samples_per_second": 1234.5, "epoch": 1.0},
        {"step": 8, "loss": None},
    ]
    told = b"".join(event(at, "metrics", **data) for at, data in enumerate(steps, 1))
    ran = run(api, "watch", answers(api, told + DONE))
    lines = [line.split("  ", 1)[1] for line in ran.stdout.splitlines()]
    assert lines == ["step 7 · loss 0.123 · lr 0.0001 · 1,234 samples/s", "step 8"]


def test_watch_prints_events_for_programs(api: SmallApi) -> None:
    ran = run(api, "watch", answers(api, event(1, text=ODD) + DONE), "--json")
    assert (json.loads(ran.stdout)["seq"], json.loads(ran.stdout)["data"]) == (1, {"text": ODD})


def test_watching_a_job_that_fails_fails(api: SmallApi) -> None:
    error = {"code": "invalid_input", "message": "It is faulty.", "blame": "user"}
    job = answers(api, event(1, "state", state="failed", attempt=1, error=error) + DONE)
    api.jobs = {id: each.model_copy(update={"state": State.FAILED}) for id, each in api.jobs.items()}
    ran = run(api, "watch", job)
    assert ran.returncode == 3
    assert "failed, attempt 1: It is faulty." in ran.stdout
    assert "failed" in ran.stderr


def test_logs_prints_what_the_handler_said(api: SmallApi) -> None:
    ran = run(api, "logs", logged(api, page(1, 2), page(after=2)), "--attempt", "2")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "line 1\nline 2\n", "")
    assert api.asked[0].query == {"attempt": "2"}


def test_logs_follow_to_the_end_of_the_attempt(api: SmallApi) -> None:
    rest = Fault(Reply(200, streamed(1) + DONE, {"Content-Type": "text/event-stream"}))
    ran = run(api, "logs", logged(api, page(), rest), "--follow")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "line 1\n", "")


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress(), ""),
        (Progress(fraction=0.5, text="half"), "50% · half"),
        (Progress(fraction=0, rate=12.34, unit="samples", eta_seconds=3725), "0% · 12.3 samples/s · 1:02:05 left"),
        (Progress(text="loading", rate=1500), "loading · 1,500/s"),
    ],
)
def test_progress_is_one_line(progress: Progress, line: str) -> None:
    assert progress_text(progress) == line
