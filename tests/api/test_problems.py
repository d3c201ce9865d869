"""Every error leaves as a problem document that names what is wrong and what to do."""

import json
from typing import Any
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from api.app import make_app
from control.settings import Settings
from tests.api.conftest import Join
from tests.api.visitor import Visitor
from vlyard import errors
from vlyard.errors import VLyardError
from vlyard.jobs.kinds import KINDS
from vlyard.problems import STATUS, status_of
from vlyard.teams import Role

NOBODY = f"vly_{'0' * 12}_{'0' * 64}"
NOOP = {"kind": "noop"}
INFERENCE = {"kind": "inference", "image": str(uuid4()), "prompt": "What is this?"}


def checked(reply: Any) -> dict[str, Any]:
    """The body of an answer, which must be a problem document as RFC 9457 has it."""
    body: dict[str, Any] = reply.json()
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert body["status"] == reply.status_code
    assert body["type"] == f"urn:vlyard:problem:{body['code']}"
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == reply.headers["X-Request-Id"]
    return body


# --- the body -------------------------------------------------------------------------------------------------

NOBODYS = "0198c0de-0000-7000-8000-00000000dead"
LINK = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}

BODIES: dict[str, tuple[Any, str, str, str]] = {  # body, pointer, part of the detail, part of the fix
    "unknown_kind": ({"spec": {"kind": "bake"}}, "/spec/kind", "no kind 'bake'", "'inference'"),
    "no_kind": ({"spec": {}}, "/spec/kind", "missing", "add it"),
    "kind_of_another_type": ({"spec": {"kind": 7}}, "/spec/kind", "no kind", "'inference'"),
    "unknown_field": ({"spec": {**NOOP, "ecko": "a"}}, "/spec/ecko", "no such field", "correct its name"),
    "unknown_field_beside_the_spec": ({"spec": NOOP, "prio": 1}, "/prio", "no such field", "correct its name"),
    "odd_field_name": ({"spec": {**NOOP, "a/b~c": 1}}, "/spec/a~1b~0c", "no such field", "remove it"),
    "field_named_like_a_kind": ({"spec": {**NOOP, "noop": 1}}, "/spec/noop", "no such field", "remove it"),
    "wrong_type": ({"spec": {**NOOP, "seconds": "soon"}}, "/spec/seconds", "valid number", ""),
    "too_large": ({"spec": {**NOOP, "seconds": 9999}}, "/spec/seconds", "3600", ""),
    "missing_field": ({"spec": {"kind": "prediction", "prompt": "a"}}, "/spec/dataset", "required", "add it"),
    "no_picture": ({"spec": {"kind": "inference", "prompt": "a"}}, "/spec", "no picture", ""),
    "no_such_picture_in_a_conversation": (
        {
            "spec": {
                "kind": "inference",
                "messages": [{"role": "user", "content": [{"type": "image", "image": NOBODYS}]}],
            }
        },
        "/spec/messages/0/content/0/image",
        "no artefact",
        "upload",
    ),
    "no_such_part_in_a_conversation": (
        {"spec": {"kind": "inference", "messages": [{"role": "user", "content": [{"type": "sound"}]}]}},
        "/spec/messages/0/content/0/type",
        "sound",
        "",
    ),
    "a_link_in_a_conversation": (
        {"spec": {"kind": "inference", "messages": [{"role": "user", "content": [LINK]}]}},
        "/spec/messages/0/content/0/image_url/url",
        "links are not followed",
        "",
    ),
    "no_artefacts_id": ({"spec": {**INFERENCE, "image": "street.jpg"}}, "/spec/image", "no artefact's id", "upload"),
    "two_ways": ({"spec": {**INFERENCE, "prompt": "a", "preset": "ground"}}, "/spec", "give a prompt or", ""),
    "empty_text": ({"spec": {**INFERENCE, "prompt": ""}}, "/spec/prompt", "at least 1", ""),
    "nul": ({"spec": {**NOOP, "echo": "a\0b"}}, "/spec/echo", "U+0000", "remove it"),
    "half_a_surrogate_pair": ({"spec": {**NOOP, "echo": "\ud83d"}}, "/spec/echo", "unicode", ""),
    "half_a_surrogate_pair_in_a_kind": ({"spec": {"kind": "\ud83d"}}, "/spec/kind", "", ""),
    "half_a_surrogate_pair_in_a_name": ({"spec": {**NOOP, "\ud83d": 1}}, "/spec", "", ""),
    "no_such_artefact": ({"spec": INFERENCE}, "/spec/image", "no artefact", "upload"),
    "no_such_pool": ({"spec": NOOP, "pool": "nowhere"}, "/pool", "no pool 'nowhere'", ""),
    "no_pool_name": ({"spec": NOOP, "pool": "A B"}, "/pool", "pattern", ""),
    "priority": ({"spec": NOOP, "priority": 1000}, "/priority", "100", ""),
    "no_spec": ({}, "/spec", "required", "add it"),
    "spec_is_text": ({"spec": "noop"}, "/spec", "dictionary", "JSON object"),
    "list": ([], "", "dictionary", "JSON object"),
    "nothing": (None, "", "required", "add it"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_not_valid_is_refused_and_its_field_named(visitor: Visitor, name: str) -> None:
    body, pointer, detail, fix = BODIES[name]
    content = b"" if body is None else json.dumps(body).encode()  # which escapes what UTF-8 cannot hold
    reply = visitor.call("POST", "/v1/jobs", headers={"Content-Type": "application/json"}, content=content)
    said = checked(reply)
    assert reply.status_code == 422
    assert said["code"] == "invalid_input"
    [error] = said["errors"]
    assert error["pointer"] == pointer
    assert detail in error["detail"]
    assert "Value error" not in error["detail"]  # which is pydantic's word
    assert fix in error["fix"]


def test_every_fault_of_a_body_is_named_at_once(visitor: Visitor) -> None:
    reply = visitor.post("/v1/jobs", {"spec": {**INFERENCE, "top_p": 7, "image": 1}, "priority": "high"})
    pointers = {error["pointer"] for error in checked(reply)["errors"]}
    assert pointers == {"/spec/top_p", "/spec/image", "/priority"}


@pytest.mark.parametrize("text", ["{", '{"spec": }', "\xff", "NaN", ""])
def test_a_body_that_is_not_json_is_refused(visitor: Visitor, text: str) -> None:
    headers = {"Content-Type": "application/json"}
    reply = visitor.call("POST", "/v1/jobs", headers=headers, content=text.encode("latin-1"))
    assert reply.status_code in {400, 422}
    assert checked(reply)["detail"]


def test_malformed_json_is_told_with_what_the_parser_found(visitor: Visitor) -> None:
    reply = visitor.call("POST", "/v1/jobs", headers={"Content-Type": "application/json"}, content=b'{"spec": }')
    [error] = checked(reply)["errors"]
    assert (error["pointer"], error["fix"]) == ("", "send a JSON object")
    assert "Expecting value" in error["detail"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(visitor: Visitor, value: str) -> None:
    content = f'{{"spec": {{"kind": "noop", "seconds": {value}}}}}'
    reply = visitor.call("POST", "/v1/jobs", headers={"Content-Type": "application/json"}, content=content)
    assert reply.status_code == 422
    assert checked(reply)["errors"][0]["pointer"] == "/spec/seconds"


# --- the rest of the request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/query/limit"),
        ("limit=many", "/query/limit"),
        ("state=done", "/query/state"),
        ("kind=bake", "/query/kind"),
        ("kind=%00", "/query/kind"),
        ("cursor=next", "/query/cursor"),
    ],
)
def test_a_query_that_is_not_valid_is_refused_and_its_parameter_named(
    visitor: Visitor, query: str, pointer: str
) -> None:
    reply = visitor.get(f"/v1/jobs?{query}")
    assert reply.status_code == 422
    assert [error["pointer"] for error in checked(reply)["errors"]] == [pointer]


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "soon"])
def test_a_wait_that_is_too_long_or_no_number_is_refused(visitor: Visitor, wait: str) -> None:
    reply = visitor.get(f"/v1/jobs/{uuid4()}?wait={wait}")
    assert reply.status_code == 422
    assert [error["pointer"] for error in checked(reply)["errors"]] == ["/query/wait"]


@pytest.mark.parametrize("path", ["/v1/jobs/none", "/v1/artefacts/none"])
def test_an_id_that_is_no_id_is_refused(visitor: Visitor, path: str) -> None:
    reply = visitor.get(path)
    assert reply.status_code == 422
    assert "UUID" in checked(reply)["errors"][0]["detail"]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic dmx5OmtleQ==", f"Bearer {NOBODY}", "Bearer nonsense", f"bearer  {NOBODY} "],
)
def test_a_request_without_a_key_of_ours_is_told_how_to_send_one(client: TestClient, header: str) -> None:
    for reply in (
        client.get("/v1/jobs", headers={"Authorization": header}),
        client.post("/v1/jobs", headers={"Authorization": header}, json={"spec": NOOP}),
        client.get(f"/v1/artefacts/{uuid4()}", headers={"Authorization": header}),
    ):
        said = checked(reply)
        assert (reply.status_code, said["code"]) == (401, "unauthenticated")
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert "Authorization: Bearer" in said["detail"]


def test_a_request_with_no_authorization_at_all_is_told_the_same(client: TestClient) -> None:
    reply = client.get("/v1/jobs")
    assert (reply.status_code, checked(reply)["code"]) == (401, "unauthenticated")


def test_a_kind_for_administrators_is_forbidden_to_members(join: Join) -> None:
    reply = join(Role.MEMBER).post("/v1/jobs", {"spec": NOOP})
    assert (reply.status_code, checked(reply)["code"]) == (403, "forbidden")
    assert {kind.name for kind in KINDS.values() if kind.admin_only} == {"noop"}


def test_a_path_that_does_not_exist_is_not_found(visitor: Visitor) -> None:
    reply = visitor.get("/v1/nothing")
    assert (reply.status_code, checked(reply)["code"]) == (404, "not_found")


def test_a_wrong_method_is_told_the_right_ones(visitor: Visitor) -> None:
    reply = visitor.call("DELETE", f"/v1/jobs/{uuid4()}")
    assert (reply.status_code, checked(reply)["code"]) == (405, "method_not_allowed")
    assert reply.headers["Allow"] == "GET"


def test_what_nobody_foresaw_is_a_problem_too_and_tells_no_secret() -> None:
    # given an endpoint with a bug
    app = make_app(Settings())

    def explode() -> None:
        raise ZeroDivisionError("the secret")

    app.add_api_route("/explode", explode)
    # when it is used
    reply = TestClient(app, raise_server_exceptions=False).get("/explode", headers={"X-Request-Id": "mine"})
    # then
    said = checked(reply)
    assert (reply.status_code, said["code"], said["request_id"]) == (500, "internal", "mine")
    assert "secret" not in reply.text


# --- ids of requests ------------------------------------------------------------------------------------------


def test_a_request_keeps_its_id_or_gets_one(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-Id": "abc"}).headers["X-Request-Id"] == "abc"
    given = {client.get("/healthz").headers["X-Request-Id"] for _ in range(3)}
    assert len(given) == 3
    assert len(client.get("/healthz", headers={"X-Request-Id": "a" * 999}).headers["X-Request-Id"]) == 64


# --- statuses -------------------------------------------------------------------------------------------------


def tree(top: type[VLyardError]) -> list[type[VLyardError]]:
    return [top, *(error for below in top.__subclasses__() for error in tree(below))]


@pytest.mark.parametrize("error", [error for error in tree(VLyardError) if error.__module__ == errors.__name__])
def test_every_error_has_a_status_that_fits_its_blame(error: type[VLyardError]) -> None:
    status = status_of(error())
    assert status < 500 if issubclass(error, errors.UserError) else status >= 500


def test_no_status_is_kept_for_an_error_that_nobody_raises() -> None:
    assert set(STATUS) <= set(tree(VLyardError))


def test_a_body_that_is_too_large_is_refused_before_it_is_read(visitor: Visitor) -> None:
    reply = visitor.call("POST", "/v1/jobs", {"Content-Type": "application/json"}, content=b" " * (33 * 2**20))

    assert reply.status_code == 413  # in plain words: the framework stops reading before our handlers come in
