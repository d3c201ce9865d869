"""No endpoint shows a team, or lets it touch, what belongs to another one."""

from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest
from fastapi.routing import iter_route_contexts

from api.app import make_app
from api.desk import House
from control.settings import Settings
from db import registry
from db.registry import NewVersion
from tests.api.conftest import Join
from tests.api.visitor import Visitor, send

CONTENT = b"a picture, say"
WEBHOOK = {"url": "http://127.0.0.1:1/", "events": ["job.cancelled"]}  # where nobody listens


def model(visitor: Visitor) -> str:
    """A version of a model, stored as the end of a training stores it."""
    artefact, job = visitor.upload(CONTENT)["id"], visitor.submit()["id"]
    new = NewVersion(visitor.team, "signs", UUID(artefact), "demo", None, UUID(job), {"loss": 0.5})
    house: House = visitor.client.app.state.house  # type: ignore[attr-defined]
    with house.database.transaction() as session:
        return registry.add(session, new)


def message(visitor: Visitor) -> str:
    """A message to a webhook."""
    webhook = visitor.post("/v1/webhooks", WEBHOOK).json()["id"]
    visitor.post(f"/v1/jobs/{visitor.submit()['id']}/cancel")
    return str(visitor.get(f"/v1/webhooks/{webhook}/deliveries").json()["data"][0]["id"])


# How a team gets each thing that a path can name; a route that names another thing fails here until it has a row.
THINGS: dict[str, Callable[[Visitor], str]] = {
    "job": lambda visitor: str(visitor.submit()["id"]),
    "artefact": lambda visitor: str(visitor.upload(CONTENT)["id"]),
    "model": model,
    "webhook": lambda visitor: str(visitor.post("/v1/webhooks", WEBHOOK).json()["id"]),
    "delivery": message,
}

BODIES = {"/v1/jobs/{job}/priority": {"priority": 1}}  # without which the request is no request


# What only administrators name, of whichever team: test_teams.py shows that others are refused.
ADMINISTERED = {"team", "prefix"}


def thing(path: str) -> str:
    """What the path names."""
    return path.partition("{")[2].partition("}")[0]


def address(path: str, identity: object) -> str:
    """The path to a thing, with what else the route asks for."""
    asked = f"?other={identity}" if path.endswith("/comparison") else ""
    return path.format(**{thing(path): identity, "alias": "prod"}) + asked


def routes() -> Iterator[tuple[str, str]]:
    """Every method and path under /v1 that names a thing that a team owns by its id."""
    for route in iter_route_contexts(make_app(Settings()).routes):
        path = route.path_format or ""
        if path.startswith("/v1") and "{" in path and thing(path) not in ADMINISTERED:
            yield from ((method, path) for method in sorted(route.methods or ()))


NAMED = sorted(routes())


def test_the_walk_finds_the_routes_that_are_known() -> None:
    assert {("GET", "/v1/jobs/{job}"), ("POST", "/v1/jobs/{job}/cancel")} <= set(NAMED)
    assert {("GET", "/v1/jobs/{job}/why"), ("POST", "/v1/webhooks/{webhook}/rotate")} <= set(NAMED)
    assert {("GET", "/v1/artefacts/{artefact}/content"), ("POST", "/v1/artefacts/{artefact}/complete")} <= set(NAMED)


@pytest.mark.parametrize(("method", "path"), NAMED, ids=" ".join)
def test_another_teams_thing_is_not_found_and_ones_own_is(join: Join, method: str, path: str) -> None:
    # given a thing of one team
    owner, stranger = join(), join()
    identity = THINGS[thing(path)](owner)
    # when another team names it, or anybody an id that there is not
    foreign = stranger.call(method, address(path, identity), json=BODIES.get(path))
    absent = stranger.call(method, address(path, uuid4()), json=BODIES.get(path))
    # then both are told the same, and the owner is not
    assert (foreign.status_code, foreign.json()["code"]) == (404, "not_found")
    assert (absent.status_code, absent.json()["code"]) == (404, "not_found")
    assert foreign.json()["detail"].replace(identity, "") == absent.json()["detail"].rpartition(" ")[0] + " "
    reply = owner.call(method, address(path, identity), json=BODIES.get(path))
    assert reply.status_code < 400 or reply.json()["code"] == "conflict"  # such as a retry of a job that still waits


@pytest.mark.parametrize(("method", "path"), NAMED, ids=" ".join)
def test_nothing_is_shown_without_a_key(visitor: Visitor, method: str, path: str) -> None:
    identity = THINGS[thing(path)](visitor)
    assert visitor.client.request(method, address(path, identity)).status_code == 401


def test_a_stranger_changes_nothing(join: Join) -> None:
    owner, stranger = join(), join()
    job, artefact = owner.submit()["id"], owner.announce(CONTENT)
    send(artefact, CONTENT)
    assert stranger.post(f"/v1/jobs/{job}/cancel").status_code == 404
    assert stranger.post(f"/v1/artefacts/{artefact['id']}/complete").status_code == 404
    assert owner.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    assert owner.get(f"/v1/artefacts/{artefact['id']}").json()["state"] == "pending"


def test_a_list_shows_ones_own_jobs_alone(join: Join) -> None:
    owner, stranger = join(), join()
    job = owner.submit()["id"]
    assert [row["id"] for row in owner.get("/v1/jobs").json()["data"]] == [job]
    assert stranger.get("/v1/jobs").json() == {"data": [], "next_cursor": None}
    assert stranger.get("/v1/jobs", params={"cursor": job}).json() == {"data": [], "next_cursor": None}


@pytest.mark.parametrize("kind", ["conversion", "inference"])
def test_another_teams_artefact_is_no_input(join: Join, kind: str) -> None:
    owner, stranger = join(), join()
    field = {"conversion": "source", "inference": "image"}[kind]
    spec = {"kind": kind, field: owner.upload(CONTENT)["id"], **({"prompt": "a"} if kind == "inference" else {})}
    reply = stranger.post("/v1/jobs", {"spec": spec})
    assert reply.status_code == 422
    assert [error["pointer"] for error in reply.json()["errors"]] == [f"/spec/{field}"]
    assert owner.post("/v1/jobs", {"spec": spec}).status_code == 202


def test_the_keys_of_one_team_see_the_same(join: Join) -> None:
    first = join(team="shared-by-two")
    second = join(team="shared-by-two")
    job = first.submit()["id"]
    assert second.get(f"/v1/jobs/{job}").json()["id"] == job
