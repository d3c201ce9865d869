"""/v1/jobs/{job}/events: pages and streams of what happened to a job."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from control.accounts import issue_key, revoke_key
from control.settings import Settings
from db.session import Database
from tests.api.happenings import end, happen
from tests.api.serving import serving
from tests.api.visitor import Visitor
from tests.system import eventually
from vlyard.teams import Role

HTTP = httpx.Client(trust_env=False, timeout=30, limits=httpx.Limits(max_connections=None))

Messages = Iterator[dict[str, Any]]


@pytest.fixture(scope="module")
def url(client: object, api_settings: Settings) -> Iterator[str]:
    """An API behind a socket, whose streams are heard of often."""
    del client  # which made the bucket
    with serving(api_settings, heartbeat_seconds=0.5) as url:
        yield url


@contextmanager
def streaming(url: str, visitor: Visitor, job: str, **headers: str) -> Iterator[Messages]:
    """An open stream of a job's events."""
    sent = {"Authorization": f"Bearer {visitor.key}", "Accept": "text/event-stream", **headers}
    path = f"{url}/v1/jobs/{job}/events"
    with HTTP.stream("GET", path, headers=sent) as reply:
        assert reply.status_code == 200
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        yield messages(reply.iter_lines())


def messages(lines: Iterator[str]) -> Messages:
    """The messages of a stream, each as its fields; a comment is a message of its own."""
    found: dict[str, Any] = {}
    for line in lines:
        if not line:
            yield found
            found = {}
            continue
        name, _, value = line.partition(":")
        found[name] = json.loads(value) if name == "data" else value.strip()


def numbers(found: Messages) -> list[int]:
    """The numbers of a stream's events to its end, which must be told by `done`."""
    heard = [message for message in found if "event" in message]
    assert heard[-1]["event"] == "done"
    return [int(message["id"]) for message in heard[:-1]]


# --- pages ----------------------------------------------------------------------------------------------------


def test_a_page_holds_what_happened_in_order_and_where_it_goes_on(visitor: Visitor, database: Database) -> None:
    # given a job to which five things happened
    job = visitor.submit()["id"]
    for fraction in (0.1, 0.2, 0.3):
        happen(database, job, fraction=fraction)
    end(database, job)
    # when its events are read in pages
    first = visitor.get(f"/v1/jobs/{job}/events?limit=3").json()
    second = visitor.get(f"/v1/jobs/{job}/events", params={"after": first["next_after"]}).json()
    # then nothing is missing and nothing comes twice, and the last page says that it is the last
    assert [event["seq"] for event in first["data"] + second["data"]] == [1, 2, 3, 4, 5]
    assert first["data"][0]["data"] == {"state": "queued"}
    assert first["data"][1] | {"at": ""} == {"seq": 2, "at": "", "type": "progress", "data": {"fraction": 0.1}}
    assert (first["ended"], second["ended"], second["next_after"]) == (False, True, 5)


def test_a_number_that_nobody_has_read_yet_is_taken_for_the_last_one(visitor: Visitor) -> None:
    job = visitor.submit()["id"]
    page = visitor.get(f"/v1/jobs/{job}/events?after=70").json()
    assert page == {"data": [], "next_after": 1, "ended": False}


@pytest.mark.parametrize("number", ["soon", "-1", "\u00b2", "9" * 10])
def test_a_last_event_id_that_is_none_is_refused_and_named(visitor: Visitor, number: str) -> None:
    job = visitor.submit()["id"]
    reply = visitor.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": number.encode("latin-1")})
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["pointer"].lower() == "/header/last-event-id"


# --- streams --------------------------------------------------------------------------------------------------


def test_a_stream_tells_what_happens_while_it_is_open_and_ends_with_the_job(
    url: str, visitor: Visitor, database: Database
) -> None:
    job = visitor.submit()["id"]
    with streaming(url, visitor, job) as heard:
        # given a stream that has told what was before it
        first = next(heard)
        assert (first["id"], first["event"], first["data"]["data"]) == ("1", "state", {"state": "queued"})
        # when something happens, and then the job ends
        happen(database, job, fraction=0.5)
        second = next(message for message in heard if "event" in message)
        end(database, job)
        # then the stream tells both, says that it is done, and is over
        assert (second["id"], second["event"], second["data"]["data"]) == ("2", "progress", {"fraction": 0.5})
        third, done = [message for message in heard if "event" in message]
        assert (third["id"], third["data"]["data"]["state"]) == ("3", "succeeded")
        assert done["event"] == "done"
        assert "id" not in done


def test_a_stream_ends_when_its_key_is_taken_back(url: str, visitor: Visitor, database: Database) -> None:
    job = visitor.submit()["id"]
    for path in ("events", "logs?follow=true"):
        with database.transaction() as session:
            key = issue_key(session, visitor.get("/v1/me").json()["team"]["name"], Role.MEMBER)
        headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
        with HTTP.stream("GET", f"{url}/v1/jobs/{job}/{path}", headers=headers) as reply:
            lines = reply.iter_lines()
            # given a stream that goes on while nothing happens
            assert [line for line, _ in zip(lines, range(6), strict=False)]
            # when
            with database.transaction() as session:
                revoke_key(session, key)
            # then
            assert "event: done" not in list(lines)
        assert HTTP.get(f"{url}/v1/jobs/{job}/{path}", headers=headers).status_code == 401


def test_a_stream_goes_on_where_the_last_one_was_cut(url: str, visitor: Visitor, database: Database) -> None:
    # given a stream that was left after three of many events, more than one look brings
    job = visitor.submit()["id"]
    for number in range(450):
        happen(database, job, fraction=number / 450)
    with streaming(url, visitor, job) as heard:
        read = [int(next(heard)["id"]) for _ in range(3)]
    end(database, job)
    # when another one begins at its last id
    with streaming(url, visitor, job, **{"Last-Event-ID": str(read[-1])}) as heard:
        read += numbers(heard)
    # then together they told everything once, in order
    assert read == list(range(1, 453))


def test_a_stream_of_a_job_whose_end_was_read_is_done_at_once(url: str, visitor: Visitor, database: Database) -> None:
    job = visitor.submit()["id"]
    last = end(database, job)
    with streaming(url, visitor, job, **{"Last-Event-ID": str(last)}) as heard:
        assert numbers(heard) == []
    with streaming(url, visitor, job, **{"Last-Event-ID": "1000"}) as heard:
        assert numbers(heard) == []


def test_a_stream_on_which_nothing_happens_shows_that_it_lives(url: str, visitor: Visitor) -> None:
    job = visitor.submit()["id"]
    with streaming(url, visitor, job) as heard:
        assert next(heard)["id"] == "1"
        assert list(next(heard)) == [""]  # a comment has no name
        assert list(next(heard)) == [""]


def test_two_hundred_streams_hold_no_connection_of_the_database_and_hold_up_nobody(
    url: str, visitor: Visitor, database: Database, api_settings: Settings
) -> None:
    job = visitor.submit()["id"]
    with ExitStack() as stack:
        # given many more streams than the API has connections to its database
        opened = [stack.enter_context(streaming(url, visitor, job)) for _ in range(200)]
        for heard in opened:
            assert next(told for told in heard if "id" in told)["id"] == "1"  # maybe after a comment
        # when somebody submits
        headers = {"Authorization": f"Bearer {visitor.key}"}
        body = {"spec": {"kind": "noop"}}
        assert HTTP.post(f"{url}/v1/jobs", json=body, headers=headers).status_code == 202
        # then the API, once here and once behind its socket, has its pool's connections, one bell and one listener
        with database.transaction() as session:
            mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :it"
            assert session.scalar(text(mine), {"it": "vlyard-api"}) <= 2 * api_settings.api_connections
            idle = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
            )
            eventually(lambda: session.scalar(idle) == 0, what="an end of the streams' transactions")
        # and everybody hears of the end
        end(database, job)
        with ThreadPoolExecutor(8) as threads:
            assert all(told == [2] for told in threads.map(numbers, opened))
