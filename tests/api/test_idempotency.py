"""`Idempotency-Key` on every POST: the same request again is the same answer, and another one is refused."""

from typing import Any
from uuid import uuid4

import pytest

from tests.api.test_hostile_requests import operations
from tests.api.test_tenancy import THINGS, WEBHOOK, thing
from tests.api.visitor import Visitor, send

NOOP = {"spec": {"kind": "noop"}}
FILE = {"name": "a.bin", "bytes": 3, "sha256": "0" * 64}
POSTS = sorted(name.partition(" ")[2] for name in operations() if name.startswith("POST "))
BODIES: dict[str, Any] = {  # for those that need one
    "/v1/jobs": NOOP,
    "/v1/jobs:batch": {"jobs": [NOOP, NOOP]},
    "/v1/jobs/{job}/priority": {"priority": 1},
    "/v1/artefacts": FILE,
    "/v1/artefacts:tree": {"name": "street", "files": [{"path": "a.bin", "bytes": 3, "sha256": "0" * 64}]},
    "/v1/webhooks": WEBHOOK,
}
SECRET = {"key", "secret"}  # which a retry of whoever did not get the answer shows anew


def sent(visitor: Visitor) -> str:
    """An artefact that waits to be completed."""
    artefact = visitor.announce(b"picture")
    assert send(artefact, b"picture").is_success
    return str(artefact["id"])


def cancelled(visitor: Visitor) -> str:
    job = str(visitor.submit()["id"])
    assert visitor.post(f"/v1/jobs/{job}/cancel").is_success
    return job


def prepared(visitor: Visitor, path: str) -> str:
    """The path with a thing to which it can be done."""
    if path.endswith("/complete"):
        identity = sent(visitor)
    elif path.endswith("/retry"):
        identity = cancelled(visitor)
    elif "{team}" in path:
        identity = str(visitor.team)
    elif "{" in path:
        identity = THINGS[thing(path)](visitor)
    else:
        return path
    return path.replace(f"{{{thing(path)}}}", identity)


def shown(reply: Any) -> Any:
    """What an answer says that must not depend on which try it was."""
    said = reply.json()
    names = said.keys() & {"id", "data", "prefix", "name", "state"}
    kept = {name: said[name] for name in names - SECRET}
    return {**kept, "data": [each["id"] for each in said["data"]]} if "data" in said else kept


@pytest.mark.parametrize("path", POSTS)
def test_a_request_again_is_the_same_and_another_one_with_its_key_is_refused(visitor: Visitor, path: str) -> None:
    there, key = prepared(visitor, path), {"Idempotency-Key": uuid4().hex}
    body = BODIES.get(path, {"name": f"n{uuid4().hex}"} if path in {"/v1/pools", "/v1/teams"} else None)
    # when a request is sent twice
    first, again = (visitor.post(there, body, headers=key) for _ in range(2))
    # then it has been carried out once
    assert first.is_success, first.text
    assert (again.status_code, shown(again)) == (first.status_code, shown(first))
    # and its key is not for another request, whatever that is
    for other, content in (
        ("/v1/jobs", {**NOOP, "priority": 7}),
        (prepared(visitor, "/v1/artefacts/{artefact}/complete"), None),
    ):
        reply = visitor.post(other, content, headers=key)
        assert (reply.status_code, reply.json()["code"]) == (422, "idempotency_mismatch")
