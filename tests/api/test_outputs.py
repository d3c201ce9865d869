"""/v1/jobs/{job}/logs and /artefacts: what a job brings forth besides its result."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import insert, update
from uuid_utils.compat import uuid7

from control.settings import Settings
from db import artefacts
from db.clock import from_now
from db.models import Attempt, Job, JobLog
from db.session import Database
from tests.api.happenings import end
from tests.api.serving import serving
from tests.api.visitor import Visitor
from tests.db import rows
from vlyard.jobs.state import State


def say(database: Database, job: str, *pieces: str, attempt: int = 1, first: int = 1) -> None:
    """Let an attempt's handler have said something."""
    with database.transaction() as session:
        said = [
            {"job_id": UUID(job), "attempt": attempt, "seq": first + number, "text": text}
            for number, text in enumerate(pieces)
        ]
        session.execute(insert(JobLog), said)


def run(database: Database, job: str, attempt: int = 1) -> None:
    """Let an attempt at a job begin."""
    with database.transaction() as session:
        worker = rows.worker(session)
        session.execute(insert(Attempt).values(job_id=UUID(job), number=attempt, worker_id=worker))
        running = {"state": State.RUNNING, "attempt": attempt, "worker_id": worker, "lease_until": from_now(rows.LEASE)}
        session.execute(update(Job).where(Job.id == UUID(job)).values(running))


def test_a_log_is_read_in_pages_whose_last_says_so(visitor: Visitor, database: Database) -> None:
    # given a job that runs, and said something
    job = visitor.submit()["id"]
    run(database, job)
    say(database, job, "one\n", "two\nthree\n")
    # when its log is read, and again when it has ended
    first = visitor.get(f"/v1/jobs/{job}/logs").json()
    say(database, job, "four\n", first=3)
    end(database, job)
    second = visitor.get(f"/v1/jobs/{job}/logs", params={"after": first["next_after"]}).json()
    # then each piece came once
    assert [piece["text"] for piece in first["data"]] == ["one\n", "two\nthree\n"]
    assert (first["attempt"], first["next_after"], first["ended"]) == (1, 2, False)
    assert [piece["text"] for piece in second["data"]] == ["four\n"]
    assert (second["next_after"], second["ended"]) == (3, True)


def test_a_log_is_text_for_who_wants_text(visitor: Visitor, database: Database) -> None:
    job = visitor.submit()["id"]
    run(database, job)
    say(database, job, *(f"größe {number}\n" for number in range(2_500)))  # more than one look brings
    reply = visitor.get(f"/v1/jobs/{job}/logs", headers={"Accept": "text/plain"})
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert reply.text == "".join(f"größe {number}\n" for number in range(2_500))


def test_the_newest_attempts_log_is_shown_unless_another_is_asked_for(visitor: Visitor, database: Database) -> None:
    job = visitor.submit()["id"]
    for attempt in (1, 2):
        run(database, job, attempt)
        say(database, job, f"attempt {attempt}\n", attempt=attempt)
    newest = visitor.get(f"/v1/jobs/{job}/logs").json()
    assert (newest["attempt"], newest["data"][0]["text"], newest["ended"]) == (2, "attempt 2\n", False)
    first = visitor.get(f"/v1/jobs/{job}/logs?attempt=1").json()
    assert (first["attempt"], first["data"][0]["text"], first["ended"]) == (1, "attempt 1\n", True)


def test_a_job_that_has_not_begun_has_said_nothing_yet(visitor: Visitor) -> None:
    job = visitor.submit()["id"]
    assert visitor.get(f"/v1/jobs/{job}/logs").json() == {"attempt": 1, "data": [], "next_after": 0, "ended": False}


@pytest.fixture(scope="module")
def url(client: object, api_settings: Settings) -> Iterator[str]:
    del client  # which made the bucket
    with serving(api_settings, heartbeat_seconds=0.5) as url:
        yield url


def following(url: str, visitor: Visitor, job: str, **headers: str) -> Iterator[dict[str, Any]]:
    """The messages of a followed log, comments left out."""
    sent = {"Authorization": f"Bearer {visitor.key}", **headers}
    with (
        httpx.Client(trust_env=False, timeout=30) as http,
        http.stream("GET", f"{url}/v1/jobs/{job}/logs?follow=true", headers=sent) as reply,
    ):
        found: dict[str, Any] = {}
        for line in reply.iter_lines():
            name, _, value = line.partition(":")
            if name:
                found[name] = json.loads(value) if name == "data" else value.strip()
            elif found:
                yield found
                found = {}


def test_a_followed_log_tells_what_is_said_until_the_attempt_ends(
    url: str, visitor: Visitor, database: Database
) -> None:
    # given somebody who follows a job that has not begun
    job = visitor.submit()["id"]
    heard = following(url, visitor, job)
    run(database, job)
    say(database, job, "one\n")
    first = next(heard)
    # when it goes on and ends
    say(database, job, "two\n", first=2)
    second = next(heard)
    end(database, job)
    # then each piece comes as it is said, and the stream is done
    assert [(each["id"], each["event"], each["data"]["text"]) for each in (first, second)] == [
        ("1", "log", "one\n"),
        ("2", "log", "two\n"),
    ]
    assert [each["event"] for each in heard] == ["done"]
    # and who was cut off after the first piece gets what is missing
    again = following(url, visitor, job, **{"Last-Event-ID": "1"})
    assert [each.get("id") for each in again] == ["2", None]


def test_a_job_that_is_cancelled_before_it_begins_ends_the_stream_of_its_log(url: str, visitor: Visitor) -> None:
    job = visitor.submit()["id"]
    visitor.post(f"/v1/jobs/{job}/cancel")
    assert [each["event"] for each in following(url, visitor, job)] == ["done"]


def test_the_files_that_a_job_made_are_listed_with_links(visitor: Visitor, database: Database) -> None:
    job, other = visitor.submit()["id"], visitor.submit()["id"]
    assert visitor.get(f"/v1/jobs/{job}/artefacts").json() == {"data": []}
    with database.transaction() as session:
        made = {"team_id": visitor.team, "job_id": UUID(job), "attempt": 1, "media_type": "text/plain", "bytes": 3}
        files = [{**made, "id": uuid7(), "name": name, "sha256": "0" * 64, "key": f"tests/{uuid7()}"} for name in "ab"]
        artefacts.insert_ready(session, files)
    listed = visitor.get(f"/v1/jobs/{job}/artefacts").json()["data"]
    assert [(row["name"], row["job"]) for row in listed] == [("a", job), ("b", job)]
    assert all(row["download_url"] for row in listed)
    assert visitor.get(f"/v1/jobs/{other}/artefacts").json() == {"data": []}
