"""/v1/jobs/{job}/...: again, again with changes, another priority; and the labels by which jobs are found."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from control.expiry import expire
from db import jobs, queue
from db.session import Database
from tests.api.visitor import Visitor

LABELS = {"camera": "north", "run": "7:b"}


def submit(visitor: Visitor, **body: Any) -> dict[str, Any]:
    reply = visitor.post("/v1/jobs", {"spec": {"kind": "noop", "echo": "a", "seconds": 2}, **body})
    assert reply.status_code == 202, reply.text
    return dict(reply.json())


def cancelled(visitor: Visitor, **body: Any) -> str:
    """The id of a job that has ended."""
    job = str(submit(visitor, **body)["id"])
    assert visitor.post(f"/v1/jobs/{job}/cancel").status_code == 202
    return job


def ids(visitor: Visitor, **query: Any) -> list[str]:
    reply = visitor.get("/v1/jobs", params=query)
    assert reply.status_code == 200, reply.text
    return [job["id"] for job in reply.json()["data"]]


def dispatch(database: Database, job: str) -> None:
    with database.transaction() as session:
        queue.dispatch(session, [[UUID(job)]])


# --- again ----------------------------------------------------------------------------------------------------


def test_a_retry_is_a_new_job_that_asks_for_the_same(visitor: Visitor) -> None:
    job = cancelled(visitor, priority=3, labels=LABELS, max_runtime=60)
    reply = visitor.post(f"/v1/jobs/{job}/retry")
    made = reply.json()
    assert (reply.status_code, reply.headers["Location"]) == (202, f"/v1/jobs/{made['id']}")
    assert made["id"] != job
    assert (made["state"], made["cloned_from"], made["priority"], made["labels"]) == ("queued", job, 3, LABELS)
    assert (made["spec"]["echo"], made["max_runtime"]) == ("a", 60)
    assert visitor.get(f"/v1/jobs/{job}").json()["cloned_from"] is None


def test_a_job_that_has_not_ended_is_not_retried(visitor: Visitor) -> None:
    reply = visitor.post(f"/v1/jobs/{submit(visitor)['id']}/retry")
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")


def test_a_clone_differs_in_what_was_named_and_in_nothing_else(visitor: Visitor) -> None:
    job = submit(visitor, priority=3, labels=LABELS)["id"]
    changes = {"spec": {"echo": "b", "seconds": None}, "priority": -1, "labels": {"camera": "south"}}
    reply = visitor.post(f"/v1/jobs/{job}/clone", changes)
    made = reply.json()
    assert reply.status_code == 202
    assert (made["spec"]["echo"], made["spec"]["seconds"]) == ("b", 0)  # null brought the default back
    assert (made["priority"], made["labels"], made["cloned_from"]) == (-1, {"camera": "south"}, job)
    same = visitor.post(f"/v1/jobs/{job}/clone", {}).json()
    assert (same["spec"]["echo"], same["priority"], same["labels"]) == ("a", 3, LABELS)


@pytest.mark.parametrize(
    ("patch", "pointer", "said"),
    [
        ({"seconds": -1}, "/spec/seconds", "greater than or equal to 0"),
        ({"nothing": 1}, "/spec/nothing", "there is no such field"),
        ({"kind": "nothing"}, "/spec/kind", "there is no kind 'nothing'"),
        ({"kind": "conversion", "source": "a.zip", "echo": None}, "/spec/source", "this is no artefact's id"),
    ],
)
def test_a_clone_that_is_no_job_is_refused_and_pointed_at(
    visitor: Visitor, patch: Any, pointer: str, said: str
) -> None:
    reply = visitor.post(f"/v1/jobs/{submit(visitor)['id']}/clone", {"spec": patch})
    told = {error["pointer"]: error["detail"] for error in reply.json()["errors"]}
    assert (reply.status_code, said in told[pointer]) == (422, True)


# --- another place in the queue -------------------------------------------------------------------------------


def test_a_waiting_job_gets_another_priority_and_a_dispatched_one_does_not(
    visitor: Visitor, database: Database
) -> None:
    job = submit(visitor)["id"]
    reply = visitor.post(f"/v1/jobs/{job}/priority", {"priority": 9})
    assert (reply.status_code, reply.json()["priority"]) == (200, 9)
    assert visitor.get(f"/v1/jobs/{job}").json()["priority"] == 9
    told = visitor.get(f"/v1/jobs/{job}/events").json()["data"]
    assert [(event["seq"], event["type"], event["data"]) for event in told[1:]] == [(2, "priority", {"priority": 9})]
    dispatch(database, job)
    reply = visitor.post(f"/v1/jobs/{job}/priority", {"priority": 1})
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert visitor.post(f"/v1/jobs/{job}/priority", {"priority": 101}).status_code == 422


# --- labels and filters ---------------------------------------------------------------------------------------


def test_jobs_are_found_by_all_of_their_labels_and_by_their_pool(visitor: Visitor) -> None:
    north, south = submit(visitor, labels=LABELS)["id"], submit(visitor, labels={"camera": "south", "run": "7:b"})["id"]
    assert ids(visitor, label="camera:north") == [north]
    assert ids(visitor, label="run:7:b") == [south, north]
    assert ids(visitor, label=["camera:south", "run:7:b"]) == [south]
    assert ids(visitor, label=["camera:south", "run:8"]) == []
    assert ids(visitor, pool="default") == [south, north]
    assert ids(visitor, pool="elsewhere") == []


@pytest.mark.parametrize("label", ["camera", ":north", ["a:b", "a:c"]])
def test_a_label_that_is_none_is_refused_and_pointed_at(visitor: Visitor, label: Any) -> None:
    reply = visitor.get("/v1/jobs", params={"label": label})
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/query/label")


@pytest.mark.parametrize(
    "labels",
    [{str(at): "" for at in range(17)}, {"k" * 65: ""}, {"": ""}, {"a:b": ""}, {"k": "v" * 513}, {"k": "\0"}, {"k": 1}],
)
def test_labels_that_are_too_many_too_long_or_no_text_are_refused(visitor: Visitor, labels: Any) -> None:
    reply = visitor.post("/v1/jobs", {"spec": {"kind": "noop"}, "labels": labels})
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["pointer"].startswith("/labels")
    assert ids(visitor) == []


# --- time -----------------------------------------------------------------------------------------------------


def test_a_job_that_was_not_started_in_time_fails_as_expired_and_so_does_what_waits_for_it(
    visitor: Visitor, database: Database
) -> None:
    # given jobs that expired while they were queued, dispatched and blocked, and some that did not
    past = {"expires_at": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}
    queued, rung, late = submit(visitor, **past)["id"], submit(visitor, **past)["id"], submit(visitor, expires_in=3600)
    dispatch(database, rung)
    reader = {"spec": {"kind": "conversion", "source": f"job:{queued}/dataset"}}
    waiting = visitor.post("/v1/jobs", reader).json()["id"]
    free = submit(visitor)["id"]
    # when
    with database.transaction() as session:
        due = jobs.expired(session, 10)
        assert expire(session, due) == 2
        assert expire(session, due) == 0
    # then
    shown = {job: visitor.get(f"/v1/jobs/{job}").json() for job in (queued, rung, waiting, late["id"], free)}
    assert [job["state"] for job in shown.values()] == ["failed", "failed", "failed", "queued", "queued"]
    assert [shown[job]["error"]["code"] for job in (queued, rung, waiting)] == [
        "expired",
        "expired",
        "dependency_failed",
    ]
    left = datetime.fromisoformat(late["expires_at"]) - datetime.fromisoformat(late["created_at"])
    assert left == timedelta(seconds=3600)


def test_times_that_cannot_be_meant_are_refused_and_pointed_at(visitor: Visitor) -> None:
    spec = {"kind": "noop"}
    too_long = visitor.post("/v1/jobs", {"spec": spec, "max_runtime": 3601})
    assert (too_long.status_code, too_long.json()["errors"][0]["pointer"]) == (422, "/max_runtime")
    assert visitor.post("/v1/jobs", {"spec": spec, "max_runtime": 3600}).json()["max_runtime"] == 3600
    both = {"spec": spec, "expires_in": 1, "expires_at": "2030-01-01T00:00:00Z"}
    for wrong in (both, {"spec": spec, "expires_in": 0}, {"spec": spec, "expires_at": "2030-01-01T00:00:00"}):
        assert visitor.post("/v1/jobs", wrong).status_code == 422
    # such as no database or client can show in every time zone
    for far in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2500-01-01T00:00:00Z"):
        reply = visitor.post("/v1/jobs", {"spec": spec, "expires_at": far})
        assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/expires_at")
        assert visitor.get("/v1/jobs").status_code == 200


# --- trying again ---------------------------------------------------------------------------------------------

OPERATIONS: list[tuple[str, Any, Any]] = [
    ("cancel", None, None),
    ("retry", None, None),
    ("clone", {"priority": 1}, {"priority": 2}),
    ("priority", {"priority": 1}, {"priority": 2}),
]


@pytest.mark.parametrize(("operation", "body", "other"), OPERATIONS, ids=[each[0] for each in OPERATIONS])
def test_every_operation_is_done_once_for_each_key(visitor: Visitor, operation: str, body: Any, other: Any) -> None:
    job, headers = cancelled(visitor) if operation == "retry" else submit(visitor)["id"], {"Idempotency-Key": "k"}
    path = f"/v1/jobs/{job}/{operation}"
    first, second = (visitor.post(path, body, headers=headers) for _ in range(2))
    assert first.is_success
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    elsewhere = cancelled(visitor)
    refused = [visitor.post(f"/v1/jobs/{elsewhere}/{operation}", body, headers=headers)]
    refused += [visitor.post(path, other, headers=headers)] if other else []
    assert {(reply.status_code, reply.json()["code"]) for reply in refused} == {(422, "idempotency_mismatch")}


def test_a_hundred_retries_at_once_make_one_job(visitor: Visitor) -> None:
    job = cancelled(visitor)

    def retry(_: int) -> Any:
        return visitor.post(f"/v1/jobs/{job}/retry", headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(100) as threads:
        replies = list(threads.map(retry, range(100)))
    assert {reply.json()["code"] for reply in replies if reply.status_code != 202} <= {"in_flight"}
    assert len({reply.json()["id"] for reply in replies if reply.status_code == 202}) == 1
    assert len(ids(visitor)) == 2
