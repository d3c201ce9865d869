"""/v1/jobs:batch: many jobs at once, all or none, and jobs that name each other's outputs."""

import json
from typing import Any
from uuid import uuid4

from starlette.testclient import TestClient

from api.examples import AN_ARTEFACT, BATCHES
from tests.api.conftest import Join
from tests.api.visitor import Visitor

READER = {"name": "read", "spec": {"kind": "conversion", "source": "ref:make/dataset"}}
MAKER = {"name": "make", "spec": {"kind": "noop"}}


def count(visitor: Visitor) -> int:
    return len(visitor.get("/v1/jobs").json()["data"])


def test_a_batch_is_answered_in_its_order_and_its_jobs_wait_for_each_other(visitor: Visitor) -> None:
    reply = visitor.post("/v1/jobs:batch", {"jobs": [READER, MAKER]})
    assert reply.status_code == 202, reply.text
    reader, maker = reply.json()["data"]
    assert (reader["kind"], reader["state"]) == ("conversion", "blocked")
    assert (maker["kind"], maker["state"]) == ("noop", "queued")
    assert visitor.get(f"/v1/jobs/{reader['id']}").json()["spec"]["source"] == f"job:{maker['id']}/dataset"


def test_a_single_job_may_wait_for_an_earlier_one_of_the_same_team(join: Join) -> None:
    owner, stranger = join(), join()
    source = f"job:{owner.submit()['id']}/dataset"
    assert owner.submit(kind="conversion", source=source)["state"] == "blocked"
    reply = stranger.post("/v1/jobs", {"spec": {"kind": "conversion", "source": source}})
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/spec/source")


def test_one_bad_entry_refuses_the_batch_and_every_fault_is_pointed_at(visitor: Visitor) -> None:
    bad = {"spec": {"kind": "conversion", "source": str(uuid4())}}
    reply = visitor.post("/v1/jobs:batch", {"jobs": [MAKER, bad, {**MAKER, "name": "b", "pool": "nowhere"}, READER]})
    assert reply.status_code == 422
    assert {error["pointer"] for error in reply.json()["errors"]} == {"/jobs/1/spec/source", "/jobs/2/pool"}
    assert count(visitor) == 0


def test_a_reference_that_is_none_is_told_how_one_looks(visitor: Visitor) -> None:
    reply = visitor.post("/v1/jobs", {"spec": {"kind": "conversion", "source": "ref:make"}})
    [error] = reply.json()["errors"]
    assert (reply.status_code, error["pointer"]) == (422, "/spec/source")
    assert "ref:<entry>/<output>" in error["detail"]


def test_a_batch_has_one_to_a_thousand_jobs(visitor: Visitor) -> None:
    spec = {"spec": {"kind": "noop"}}
    assert visitor.post("/v1/jobs:batch", {"jobs": []}).status_code == 422
    assert visitor.post("/v1/jobs:batch", {"jobs": [spec] * 1001}).status_code == 422
    assert len(visitor.post("/v1/jobs:batch", {"jobs": [spec] * 1000}).json()["data"]) == 1000


def test_the_same_key_and_batch_give_the_same_jobs_and_another_batch_is_refused(visitor: Visitor) -> None:
    headers = {"Idempotency-Key": "k"}
    first, second = (visitor.post("/v1/jobs:batch", {"jobs": [READER, MAKER]}, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    other = visitor.post("/v1/jobs:batch", {"jobs": [MAKER]}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert count(visitor) == 2


def test_a_cancelled_job_fails_what_waits_for_it(visitor: Visitor) -> None:
    reader, maker = visitor.post("/v1/jobs:batch", {"jobs": [READER, MAKER]}).json()["data"]
    visitor.post(f"/v1/jobs/{maker['id']}/cancel")
    found = visitor.get(f"/v1/jobs/{reader['id']}?wait=60").json()
    assert (found["state"], found["error"]["code"]) == ("failed", "dependency_failed")


def test_the_document_shows_how_an_output_is_named(client: TestClient) -> None:
    schemas: dict[str, Any] = client.get("/openapi.json").json()["components"]["schemas"]
    forms = schemas["ConversionSpec"]["properties"]["source"]["anyOf"]
    assert [form.get("format") or form["pattern"][:5] for form in forms] == ["uuid", "^job:", "^ref:"]


def test_the_examples_of_batches_are_accepted(visitor: Visitor, client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/jobs:batch"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["examples"] == BATCHES
    artefact = visitor.upload(b"a file, say")["id"]
    for example in BATCHES.values():
        body = json.loads(json.dumps(example["value"]).replace(AN_ARTEFACT, artefact))
        assert visitor.post("/v1/jobs:batch", body).status_code == 202
