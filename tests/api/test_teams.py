"""/v1/me, /v1/teams and keys: who is who, and what only administrators do."""

from typing import Any
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from tests.api.conftest import Join
from tests.api.visitor import Visitor
from vlyard.teams import Role

ONCE = {"Idempotency-Key": "once"}


def team(visitor: Visitor, name: str = "") -> dict[str, Any]:
    reply = visitor.post("/v1/teams", {"name": name or uuid4().hex})
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def key(visitor: Visitor, owner: str, role: str = "member", **more: Any) -> dict[str, Any]:
    reply = visitor.post(f"/v1/teams/{owner}/keys", {"role": role}, **more)
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def me(client: TestClient, secret: str) -> Any:
    return client.get("/v1/me", headers={"Authorization": f"Bearer {secret}"})


def test_a_key_says_whose_it_is(join: Join) -> None:
    name = uuid4().hex
    member = join(Role.MEMBER, name)
    shown = member.get("/v1/me").json()
    assert (shown["team"]["name"], shown["team"]["id"], shown["role"]) == (name, str(member.team), "member")
    assert shown["prefix"] == member.key.split("_")[1]


def test_a_new_teams_new_key_opens_the_door_and_is_never_shown_again(visitor: Visitor) -> None:
    made = team(visitor)
    new = key(visitor, made["name"])
    assert me(visitor.client, new["key"]).json()["team"] == made
    assert (new["team"], new["role"], new["revoked_at"]) == (made["name"], "member", None)
    listed = visitor.get(f"/v1/teams/{made['id']}/keys").json()["data"]
    assert listed == [{**new, "key": None}]


def test_a_key_that_was_taken_back_opens_nothing_and_stays_in_the_list(visitor: Visitor) -> None:
    made = team(visitor)
    kept, lost = (key(visitor, made["id"]) for _ in range(2))
    reply = visitor.call("DELETE", f"/v1/keys/{lost['prefix']}")
    assert (reply.status_code, reply.content) == (204, b"")
    assert me(visitor.client, lost["key"]).status_code == 401
    assert me(visitor.client, kept["key"]).status_code == 200
    listed = visitor.get(f"/v1/teams/{made['id']}/keys").json()["data"]
    assert [row["revoked_at"] is None for row in listed] == [True, False]
    assert visitor.call("DELETE", f"/v1/keys/{lost['prefix']}").status_code == 404


def test_nobody_locks_himself_out(visitor: Visitor) -> None:
    for name in (visitor.key.split("_")[1], visitor.key):
        reply = visitor.call("DELETE", f"/v1/keys/{name}")
        assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert visitor.get("/v1/me").status_code == 200


def test_all_teams_are_listed_by_name(visitor: Visitor) -> None:
    made = [team(visitor, f"{letter}-{uuid4().hex}") for letter in "ba"]
    listed = visitor.get("/v1/teams").json()["data"]
    assert [row for row in listed if row in made] == made[::-1]


def test_a_name_is_taken_once_and_a_retry_finds_what_the_first_try_made(visitor: Visitor) -> None:
    body = {"name": uuid4().hex}
    first, again = (visitor.post("/v1/teams", body, headers=ONCE) for _ in range(2))
    assert (first.status_code, first.json()) == (201, again.json())
    other = visitor.post("/v1/teams", body)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    assert visitor.post("/v1/teams", {"name": "another"}, headers=ONCE).json()["code"] == "idempotency_mismatch"


def test_a_retry_of_a_lost_answer_brings_a_key_that_works_and_the_lost_one_opens_nothing(visitor: Visitor) -> None:
    made = team(visitor)
    lost = key(visitor, made["name"], headers=ONCE)
    found = key(visitor, made["name"], headers=ONCE)
    assert found["prefix"] == lost["prefix"]
    assert me(visitor.client, lost["key"]).status_code == 401
    assert me(visitor.client, found["key"]).status_code == 200
    assert len(visitor.get(f"/v1/teams/{made['name']}/keys").json()["data"]) == 1


def test_a_retry_never_brings_back_a_key_that_was_taken_back(visitor: Visitor) -> None:
    made = team(visitor)
    first = key(visitor, made["name"], headers=ONCE)
    visitor.call("DELETE", f"/v1/keys/{first['prefix']}")
    reply = visitor.post(f"/v1/teams/{made['name']}/keys", {"role": "member"}, headers=ONCE)
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert me(visitor.client, first["key"]).status_code == 401


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", "a" * 64, "ä"])
def test_a_name_that_cannot_be_a_part_of_a_path_is_refused(visitor: Visitor, name: str) -> None:
    reply = visitor.post("/v1/teams", {"name": name})
    assert reply.status_code == 422
    assert [error["pointer"] for error in reply.json()["errors"]] == ["/name"]


def test_a_team_that_there_is_not_has_no_keys(visitor: Visitor) -> None:
    for method in ("GET", "POST"):
        reply = visitor.call(method, f"/v1/teams/{uuid4()}/keys")
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/teams", None),
        ("POST", "/v1/teams", {"name": "mine"}),
        ("GET", "/v1/teams/{own}/keys", None),
        ("GET", "/v1/teams/{foreign}/keys", None),
        ("GET", "/v1/teams/absent/keys", None),
        ("POST", "/v1/teams/{own}/keys", {"role": "admin"}),
        ("POST", "/v1/teams/{foreign}/keys", {"role": "member"}),
        ("DELETE", "/v1/keys/{key}", None),
        ("DELETE", "/v1/keys/absent", None),
        ("POST", "/v1/pools", {"name": "mine"}),
    ],
)
def test_a_member_is_told_the_same_of_what_there_is_and_what_there_is_not(
    join: Join, method: str, path: str, body: dict[str, str] | None
) -> None:
    member, other = join(Role.MEMBER), join()
    named = path.format(own=member.team, foreign=other.team, key=other.key.split("_")[1])
    reply = member.call(method, named, json=body)
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert reply.json()["detail"] == "only administrators may do that: use an administrator's key"
    assert other.get("/v1/me").status_code == 200
