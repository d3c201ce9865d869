"""The OpenAPI document says what the API takes, and what its examples show is accepted."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.examples import AN_ARTEFACT, SUBMISSIONS
from tests.api.visitor import Visitor
from vlyard.jobs.kinds import KINDS


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


def body(document: dict[str, Any], path: str) -> dict[str, Any]:
    """What the document says of the body of a POST."""
    return dict(document["paths"][path]["post"]["requestBody"]["content"]["application/json"])


def test_the_document_lists_every_kind(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    mapping = schemas["Submission"]["properties"]["spec"]["discriminator"]["mapping"]
    assert set(mapping) == set(KINDS)
    for name, kind in KINDS.items():
        properties = schemas[mapping[name].rpartition("/")[2]]["properties"]
        assert set(properties) == set(kind.spec.model_fields)


def test_every_kind_has_an_example_and_every_example_a_kind(document: dict[str, Any]) -> None:
    assert set(SUBMISSIONS) == set(KINDS)
    assert body(document, "/v1/jobs")["examples"] == SUBMISSIONS


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_an_example_that_the_document_shows_is_accepted(visitor: Visitor, document: dict[str, Any], name: str) -> None:
    example = json.dumps(body(document, "/v1/jobs")["examples"][name]["value"])
    artefact = visitor.upload(b"a file, say")["id"]
    reply = visitor.post("/v1/jobs", json.loads(example.replace(AN_ARTEFACT, artefact)))
    assert reply.status_code == 202, reply.text
    assert reply.json()["kind"] == name


def test_the_example_of_an_artefact_is_accepted(visitor: Visitor, document: dict[str, Any]) -> None:
    schema = body(document, "/v1/artefacts")
    [example] = schema.get("schema", {}).get("examples") or [schema.get("example")]
    assert visitor.post("/v1/artefacts", example).status_code == 201


def test_every_endpoint_has_a_summary_and_names_no_header_that_carries_the_key(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, endpoint in methods.items():
            assert endpoint["summary"], (method, path)
            assert "authorization" not in {parameter["name"] for parameter in endpoint.get("parameters", ())}
