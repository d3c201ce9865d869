"""`vlyard doctor` at a client: what it finds at the API, and how it says so. The server side is in tests/control."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

import vlyard
from tests.language.small_api import KEY, Fault, Reply, SmallApi, problem, serving
from vlyard.checks import Check, Finding, Mark, ok, run
from vlyard.cli.app import build
from vlyard.errors import Unavailable
from vlyard.jobs.kinds import KINDS

NOW = "2026-03-01T12:00:00Z"
ME = {"team": {"id": str(uuid4()), "name": "vision", "created_at": NOW}, "role": "member", "prefix": "0c5f3a9b71d2"}


def staff(*kinds: str, **more: Any) -> dict[str, Any]:
    known = {"id": str(uuid4()), "name": "one", "device": "gpu", "kinds": kinds, "slots": 1, "running": 0}
    worker = {**known, "draining": False, "silent_seconds": 1, "started_at": NOW, **more}
    return {"data": [{"name": "default", "created_at": NOW, "workers": [worker]}]}


def told(body: Any) -> Reply:
    return Reply(200, json.dumps(body).encode())


WELL = {
    "GET /healthz": told({"status": "ok"}),
    "GET /readyz": told({"status": "ok"}),
    "GET /openapi.json": told({"info": {"version": vlyard.__version__}}),
    "GET /v1/me": told(ME),
    "GET /v1/pools": told(staff(*KINDS)),
}


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        api.faults = {request: [Fault(reply)] for request, reply in WELL.items()}
        yield api


def doctor(url: str | None, *words: str, key: str | None = KEY) -> Result:
    return CliRunner().invoke(build(["doctor"]), ["doctor", *words], env={"VLYARD_URL": url, "VLYARD_API_KEY": key})


def marks(ran: Result) -> dict[str, tuple[str, str, str]]:
    """The client's checks, in their order."""
    found = {each["name"]: (each["mark"], each["found"], each["fix"]) for each in json.loads(ran.stdout)}
    return {name: found[name] for name in found if name in {"url", "ready", "version", "key", "workers"}}


def test_where_all_is_well_every_check_says_what_it_found(api: SmallApi) -> None:
    ran = doctor(api.url)

    lines = ran.stdout.splitlines()
    assert ran.exit_code == 0, ran.stdout
    assert lines[0].startswith("✓ python: Python 3.")
    assert lines[1].startswith("✓ extras: ")
    assert lines[2:7] == [
        f"✓ url: {api.url} answers",
        "✓ ready: the API reaches its database and its store",
        f"✓ version: the API is {vlyard.__version__}, as this client",
        "✓ key: key 0c5f3a9b71d2 of team vision, member",
        "✓ workers: 1 alive; every kind has one that runs it",
    ]


@pytest.mark.parametrize(
    ("request_line", "reply", "name", "words"),
    [
        ("GET /healthz", Reply(404), "url", "answers 404"),
        (
            "GET /readyz",
            problem(503, "unavailable", "the database does not answer"),
            "ready",
            "database does not answer",
        ),
        ("GET /openapi.json", told({"info": {"version": "9.0"}}), "version", "the API is 9.0"),
        ("GET /v1/me", problem(401, "unauthenticated", "No such key."), "key", "No such key."),
        (
            "GET /v1/pools",
            told(staff("conversion")),
            "workers",
            "nobody runs inference, prediction, training_check, training, evaluation, export, verification, import",
        ),
        ("GET /v1/pools", told(staff(*KINDS, draining=True)), "workers", "nobody runs conversion, inference"),
        (
            "GET /v1/pools",
            told(staff(*KINDS, self_test={"ok": False, "checks": [{"name": "dtype", "ok": False, "note": "far off"}]})),
            "workers",
            "one: dtype: far off",
        ),
    ],
)
def test_what_is_broken_is_marked_with_words_and_with_what_to_do(
    api: SmallApi, request_line: str, reply: Reply, name: str, words: str
) -> None:
    api.faults[request_line] = [Fault(reply)] * 5

    ran = doctor(api.url, "--json")

    found = marks(ran)
    mark, said, fix = found.pop(name)
    assert (ran.exit_code, mark, bool(fix)) == (1, "broken", True)
    assert words in said
    assert {mark for mark, _, _ in found.values()} == {"ok"}


def test_an_api_that_does_not_tell_its_version_is_not_broken(api: SmallApi) -> None:
    api.faults["GET /openapi.json"] = [Fault(Reply(404))]

    ran = doctor(api.url, "--json")

    assert (ran.exit_code, marks(ran)["version"][0]) == (0, "skipped")


def test_without_a_url_it_says_which_setting_is_missing() -> None:
    ran = doctor(None)

    assert ran.exit_code == 1
    assert "✗ url: VLYARD_URL is not set\n    → set it" in ran.stdout


def test_without_a_key_only_what_needs_one_is_broken(api: SmallApi) -> None:
    found = marks(doctor(api.url, "--json", key=None))

    assert [name for name, (mark, _, _) in found.items() if mark == "broken"] == ["key", "workers"]
    assert "VLYARD_API_KEY" in found["key"][1]


def test_where_nobody_listens_every_check_of_the_api_is_broken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"

    ran = doctor(url, "--json")

    assert ran.exit_code == 1
    assert {mark for mark, _, _ in marks(ran).values()} == {"broken"}
    assert "VLYARD_URL" in marks(ran)["url"][2]


# --- running checks -------------------------------------------------------------------------------------------


def test_a_check_that_hangs_is_given_up_and_the_next_one_is_run() -> None:
    def hang() -> Finding:
        time.sleep(30)
        return ok("late")

    hanging = Check("hanging", hang, "stop it", seconds=0.1)
    began = time.monotonic()

    first, second = run([hanging, Check("next", lambda: ok("fine"))])

    assert time.monotonic() - began < 10
    assert (first.mark, first.found, first.fix) == (Mark.BROKEN, "no answer within 0.1 s", "stop it")
    assert (second.mark, second.found) == (Mark.OK, "fine")


def test_what_a_check_raises_is_what_it_found_with_its_cause() -> None:
    def refused() -> Any:
        raise Unavailable("the database does not answer") from OSError("connection refused")

    def torn() -> Any:
        raise KeyError("colour")

    first, second = run([Check("database", refused, "start it"), Check("picture", torn)])

    assert (first.mark, first.found, first.fix) == (
        Mark.BROKEN,
        "the database does not answer: connection refused",
        "start it",
    )
    assert (second.mark, second.found) == (Mark.BROKEN, "KeyError: 'colour'")
