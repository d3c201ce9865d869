"""/v1/jobs: submitting, looking, listing, cancelling, waiting, and trying again."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from api.desk import wait_seconds
from control.failures import failure_of
from control.lifecycle import Ending, finish
from control.rules import rules_from
from control.settings import Settings
from control.wakeup import Bell, Channel
from db import leases, queue
from db.models import Outcome
from db.session import Database
from tests.api.visitor import Visitor
from tests.db import rows
from tests.system import eventually
from vlyard.errors import Complaint, InvalidInput

End = Callable[..., None]


@pytest.fixture
def end(database: Database, api_settings: Settings) -> Iterator[End]:
    """Runs a job as a worker would: claims it, and ends it with success or with an error."""
    bell = Bell(api_settings.database_url.get_secret_value())
    bell.start()

    def end(job: str, error: InvalidInput | None = None) -> None:
        with database.transaction() as session:
            worker = rows.worker(session)
            [rung] = queue.dispatch(session, [[UUID(job)]])
            [pair] = rung.pairs
            leases.claim(session, worker, [pair], rows.LEASE)
            outcome = Outcome.FAILED if error else Outcome.SUCCEEDED
            ending = Ending(pair, outcome, result={"echo": "done"}, failure=failure_of(error) if error else None)
            finish(session, worker, [ending], rules_from(api_settings))
        bell.strike(Channel.ENDED)

    yield end
    bell.stop()


# --- submitting and looking -----------------------------------------------------------------------------------


def test_a_submitted_job_is_accepted_and_found_where_the_answer_says(visitor: Visitor) -> None:
    reply = visitor.post("/v1/jobs", {"spec": {"kind": "noop", "echo": "hello"}, "priority": 3})
    job = reply.json()
    assert reply.status_code == 202
    assert reply.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["kind"], job["priority"], job["attempt"]) == ("queued", "noop", 3, 0)
    assert job["spec"]["echo"] == "hello"
    assert visitor.get(reply.headers["Location"]).json() == job


def test_a_job_that_succeeded_shows_its_result_and_its_attempt(visitor: Visitor, end: End) -> None:
    job = visitor.submit()["id"]
    end(job)
    shown = visitor.get(f"/v1/jobs/{job}").json()
    [attempt] = shown["attempts"]
    assert (shown["state"], shown["result"], shown["error"]) == ("succeeded", {"echo": "done"}, None)
    assert (attempt["number"], attempt["outcome"], attempt["worker"]) == (1, "succeeded", "test")
    assert attempt["ended_at"] == shown["finished_at"]


def test_a_job_that_failed_says_whose_fault_it_was_and_where(visitor: Visitor, end: End) -> None:
    job = visitor.submit()["id"]
    end(job, InvalidInput("the labels are wrong", [Complaint("labels/1.txt:3", "x is 7", "divide it by the width")]))
    shown = visitor.get(f"/v1/jobs/{job}").json()
    assert shown["state"] == "failed"
    assert shown["error"]["code"] == "invalid_input"
    assert shown["error"]["blame"] == "user"
    assert shown["error"]["complaints"][0]["where"] == "labels/1.txt:3"
    assert shown["attempts"][0]["error"] == shown["error"]


# --- listing --------------------------------------------------------------------------------------------------


def pages(visitor: Visitor, **query: Any) -> Iterator[list[str]]:
    cursor = None
    while True:
        reply = visitor.get("/v1/jobs", params={**query, **({"cursor": cursor} if cursor else {})})
        assert reply.status_code == 200, reply.text
        page = reply.json()
        yield [job["id"] for job in page["data"]]
        if (cursor := page["next_cursor"]) is None:
            return


@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (2, [2]), (4, [2, 2]), (5, [2, 2, 1])])
def test_every_job_is_on_one_page_newest_first(visitor: Visitor, count: int, sizes: list[int]) -> None:
    submitted = [visitor.submit()["id"] for _ in range(count)]
    found = list(pages(visitor, limit=2))
    assert [len(page) for page in found] == sizes
    assert [job for page in found for job in page] == submitted[::-1]


def test_a_job_that_is_submitted_between_two_pages_moves_none(visitor: Visitor) -> None:
    submitted = [visitor.submit()["id"] for _ in range(4)]
    listing = pages(visitor, limit=2)
    first = next(listing)
    visitor.submit()
    assert [*first, *next(listing)] == submitted[::-1]


def test_a_list_can_be_narrowed_to_a_state_and_a_kind(visitor: Visitor, end: End) -> None:
    ended, waiting = visitor.submit()["id"], visitor.submit()["id"]
    end(ended)
    image = visitor.upload(b"picture")["id"]
    asked = visitor.submit(kind="inference", image=image, prompt="What is this?")["id"]
    assert list(pages(visitor, state="succeeded")) == [[ended]]
    assert list(pages(visitor, kind="inference")) == [[asked]]
    assert list(pages(visitor, state="queued", kind="noop")) == [[waiting]]


# --- cancelling -----------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once_and_only_once(visitor: Visitor) -> None:
    job = visitor.submit()["id"]
    reply = visitor.post(f"/v1/jobs/{job}/cancel")
    assert (reply.status_code, reply.json()["state"]) == (202, "cancelled")
    again = visitor.post(f"/v1/jobs/{job}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


def test_a_running_job_shows_that_it_was_asked_to_stop(visitor: Visitor, database: Database) -> None:
    job = visitor.submit()["id"]
    with database.transaction() as session:
        [rung] = queue.dispatch(session, [[UUID(job)]])
        leases.claim(session, rows.worker(session), rung.pairs, rows.LEASE)
    reply = visitor.post(f"/v1/jobs/{job}/cancel").json()
    assert (reply["state"], reply["cancel_requested"]) == ("running", True)


# --- waiting --------------------------------------------------------------------------------------------------


def test_a_wait_ends_with_the_job(visitor: Visitor, end: End) -> None:
    job = visitor.submit()["id"]
    with ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        waiting = threads.submit(visitor.get, f"/v1/jobs/{job}?wait=60")
        end(job)
        assert waiting.result().json()["state"] == "succeeded"
    assert time.monotonic() - began < 50


def test_a_wait_ends_at_its_time_where_the_job_does_not(visitor: Visitor) -> None:
    began = time.monotonic()
    reply = visitor.post("/v1/jobs?wait=0.5", {"spec": {"kind": "noop"}})
    assert (reply.status_code, reply.json()["state"]) == (202, "queued")
    assert 0.5 <= time.monotonic() - began < 30


def test_a_wait_for_a_job_that_has_ended_is_over_at_once(visitor: Visitor, end: End) -> None:
    job = visitor.submit()["id"]
    end(job)
    began = time.monotonic()
    assert visitor.get(f"/v1/jobs/{job}?wait=60").json()["state"] == "succeeded"
    assert time.monotonic() - began < 50


def test_a_wait_can_be_asked_for_with_prefer(visitor: Visitor, end: End) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(
            visitor.post, "/v1/jobs", {"spec": {"kind": "noop"}}, headers={"Prefer": "respond-async, wait=60"}
        )
        [job] = eventually(lambda: next(pages(visitor, state="queued")), what="the job")
        end(job)
        assert waiting.result().json()["state"] == "succeeded"


def test_a_hundred_waiters_hold_up_nobody_and_are_all_told(visitor: Visitor, end: End) -> None:
    # given many more waiters than the API has connections to its database
    job = visitor.submit()["id"]
    asked = threading.Semaphore(0)

    def wait(_: int) -> str:
        asked.release()
        return str(visitor.get(f"/v1/jobs/{job}?wait=60").json()["state"])

    with ThreadPoolExecutor(100) as threads:
        waiting = threads.map(wait, range(100))
        for _ in range(100):
            asked.acquire()
        # when others work, and then the job ends
        assert visitor.submit()["state"] == "queued"
        end(job)
        # then everybody hears of it
        assert set(waiting) == {"succeeded"}


@pytest.mark.parametrize(
    ("query", "header", "seconds"),
    [
        (None, "", 0),
        (2.5, "wait=9", 2.5),
        (None, "wait=9", 9),
        (None, "respond-async, WAIT=9", 9),
        (None, 'wait="9"; reason=slow, handling=lenient', 9),
        (None, " wait = 9 ", 9),
        (None, "wait=86400", 60),
        (None, "wait=soon", 0),
        (None, "wait=\xb2", 0),
        (None, "wait=-1", 0),
        (None, "wait", 0),
        (None, "waiting=9", 0),
    ],
)
def test_the_preference_is_read_as_rfc_7240_has_it(query: float | None, header: str, seconds: float) -> None:
    assert asyncio.run(wait_seconds(query, header)) == seconds


# --- trying again ---------------------------------------------------------------------------------------------

BODY = {"spec": {"kind": "noop", "echo": "once"}}


def test_the_same_key_and_body_give_the_same_job(visitor: Visitor) -> None:
    first, second = (visitor.post("/v1/jobs", BODY, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.status_code == second.status_code == 202
    assert first.json() == second.json()
    assert len(next(pages(visitor))) == 1


def test_the_same_key_gives_the_job_as_it_is_by_now(visitor: Visitor, end: End) -> None:
    job = visitor.post("/v1/jobs", BODY, headers={"Idempotency-Key": "k"}).json()["id"]
    end(job)
    again = visitor.post("/v1/jobs?wait=60", BODY, headers={"Idempotency-Key": "k"}).json()
    assert (again["id"], again["state"]) == (job, "succeeded")


def test_the_same_key_with_another_body_is_refused(visitor: Visitor) -> None:
    visitor.post("/v1/jobs", BODY, headers={"Idempotency-Key": "k"})
    reply = visitor.post("/v1/jobs", {**BODY, "priority": 1}, headers={"Idempotency-Key": "k"})
    assert (reply.status_code, reply.json()["code"]) == (422, "idempotency_mismatch")
    artefact = {"name": "a", "bytes": 0, "sha256": "0" * 64}
    assert visitor.post("/v1/artefacts", artefact, headers={"Idempotency-Key": "k"}).status_code == 422


def test_a_key_is_a_teams_own(join: Callable[[], Visitor]) -> None:
    made = {join().post("/v1/jobs", BODY, headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(2)}
    assert len(made) == 2


def test_twenty_tries_at_once_are_one_job(visitor: Visitor) -> None:
    with ThreadPoolExecutor(20) as threads:
        replies = list(
            threads.map(lambda _: visitor.post("/v1/jobs", BODY, headers={"Idempotency-Key": "k"}), range(20))
        )
    made = {reply.json()["id"] for reply in replies if reply.status_code == 202}
    assert {reply.json()["code"] for reply in replies if reply.status_code != 202} <= {"in_flight"}
    assert [*made] == next(pages(visitor))


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_that_is_no_key_is_refused_and_named(visitor: Visitor, key: str) -> None:
    reply = visitor.post("/v1/jobs", BODY, headers={"Idempotency-Key": key})
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["pointer"].lower() == "/header/idempotency-key"
