"""`vlyard pools`, `teams`, `keys` and `webhooks`: what each asks the API, and what it prints."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from tests.language.small_api import KEY, Fault, Reply, SmallApi, problem, serving
from vlyard.cli.app import build
from vlyard.errors import InvalidInput, Unavailable

NOW = "2026-03-01T12:00:00Z"
ID = "4fe1a3cb-3f9f-4865-b9fb-c1cb02901970"
TEAM = {"id": ID, "name": "vision", "created_at": NOW}
HOOK = {"id": ID, "url": "https://a.example/hook", "events": ["job.failed"], "created_at": NOW}
MESSAGE = {"id": ID, "type": "job.failed", "job": ID, "state": "pending", "tries": 0, "created_at": NOW}
MADE_KEY = {"prefix": "0c5f3a9b71d2", "team": "vision", "role": "admin", "created_at": NOW, "key": "vly_secret"}
TORN = {
    "ok": False,
    "checks": [{"name": "dtype", "ok": True, "note": "fine"}, {"name": "conv", "ok": False, "note": "slow"}],
}


def worker(name: str, **more: Any) -> dict[str, Any]:
    known = {"id": str(uuid4()), "name": name, "device": "gpu", "kinds": ["inference"], "slots": 2, "running": 1}
    return {**known, "draining": False, "silent_seconds": 3.2, "started_at": NOW, **more}


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


def answers(api: SmallApi, request: str, body: Any, status: int = 200) -> None:
    api.faults[request] = [Fault(Reply(status, b"" if body is None else json.dumps(body).encode()))]


def vlyard(api: SmallApi, *words: str) -> Result:
    reach = {"VLYARD_URL": api.url, "VLYARD_API_KEY": KEY}
    return CliRunner().invoke(build(words), words, env=reach)


# --- pools ----------------------------------------------------------------------------------------------------


def test_pools_show_their_lines_and_the_health_of_their_workers(api: SmallApi) -> None:
    load = {"kind": "inference", "queued": 1, "running": 2, "queued_of_all": 1234, "running_of_all": 4}
    staff = [
        worker("one", self_test={"ok": True}, gpus=["NVIDIA H200"]),
        worker("two", self_test=TORN, draining=True),
        worker("three", device="cpu", kinds=["conversion", "noop"]),
    ]
    pools = [
        {"name": "default", "created_at": NOW, "workers": staff, "load": [load]},
        {"name": "night", "created_at": NOW},
    ]
    answers(api, "GET /v1/pools", {"data": pools})

    ran = vlyard(api, "pools")

    lines = [line.split() for line in ran.stdout.splitlines()]
    assert ran.exit_code == 0
    assert ["default", "inference", "1", "2", "1,234", "4"] in lines
    assert ["night", "-", "0", "0", "0", "0"] in lines
    one, two, three = (next(line for line in lines if line[:1] == [name]) for name in ("one", "two", "three"))
    assert (one[-1], three[-1]) == ("ok", "-")
    assert " ".join(one[2:5]) == "gpu, NVIDIA H200"
    assert ("draining" in two, two[-2:]) == (True, ["conv:", "slow"])


@pytest.mark.parametrize("words", [("pools", "--json"), ("pools", "list", "--json")])
def test_without_a_verb_a_group_lists(api: SmallApi, words: tuple[str, ...]) -> None:
    answers(api, "GET /v1/pools", {"data": [{"name": "night", "created_at": NOW}]})

    assert [each["name"] for each in json.loads(vlyard(api, *words).stdout)] == ["night"]


def test_a_pool_is_made(api: SmallApi) -> None:
    answers(api, "POST /v1/pools", {"name": "night", "created_at": NOW}, 201)

    ran = vlyard(api, "pools", "create", "night")

    assert json.loads(api.asked[-1].body) == {"name": "night"}
    assert "vlyard worker --device gpu --pool night" in ran.stdout


def test_a_name_that_no_pool_may_have_is_refused_before_it_is_sent(api: SmallApi) -> None:
    ran = vlyard(api, "pools", "create", "Night Shift")

    assert (type(ran.exception), api.asked) == (InvalidInput, [])


# --- teams and keys -------------------------------------------------------------------------------------------


def test_teams_are_listed_and_made(api: SmallApi) -> None:
    answers(api, "GET /v1/teams", {"data": [TEAM]})
    answers(api, "POST /v1/teams", TEAM, 201)

    listed, made = vlyard(api, "teams"), vlyard(api, "teams", "create", "vision", "--json")

    assert listed.stdout.splitlines()[1].split()[:2] == ["vision", ID]
    assert (json.loads(api.asked[-1].body), json.loads(made.stdout)) == ({"name": "vision"}, TEAM)


def test_a_new_key_is_all_that_is_printed(api: SmallApi) -> None:
    answers(api, "POST /v1/teams/vision/keys", MADE_KEY, 201)

    ran = vlyard(api, "keys", "create", "vision", "--role", "admin")

    assert (json.loads(api.asked[-1].body), ran.stdout) == ({"role": "admin"}, "vly_secret\n")


def test_keys_are_listed_by_their_prefixes_and_taken_back(api: SmallApi) -> None:
    revoked = {**MADE_KEY, "key": None, "prefix": "aaaaaaaaaaaa", "revoked_at": NOW}
    answers(api, "GET /v1/teams/vision/keys", {"data": [{**MADE_KEY, "key": None}, revoked]})
    answers(api, "DELETE /v1/keys/0c5f3a9b71d2", None, 204)

    listed, taken = vlyard(api, "keys", "list", "vision"), vlyard(api, "keys", "revoke", "0c5f3a9b71d2", "--json")

    _, first, second = (line.split() for line in listed.stdout.splitlines())
    assert (first[0], len(first), second[0], len(second)) == ("0c5f3a9b71d2", 5, "aaaaaaaaaaaa", 7)
    assert (api.asked[-1].method, json.loads(taken.stdout)) == ("DELETE", {"revoked": "0c5f3a9b71d2"})


def test_what_the_api_forbids_is_a_line_and_an_exit_status(api: SmallApi) -> None:
    api.faults["GET /v1/teams"] = [Fault(problem(403, "forbidden", "Only administrators may list teams."))]
    reach = {**os.environ, "VLYARD_URL": api.url, "VLYARD_API_KEY": KEY}

    ran = subprocess.run(
        [sys.executable, "-c", "from vlyard.cli.app import main; main()", "teams"],
        env=reach,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", "error: Only administrators may list teams.\n")


# --- webhooks -------------------------------------------------------------------------------------------------


def test_webhooks_are_listed_with_why_they_are_disabled(api: SmallApi) -> None:
    away = {**HOOK, "disabled_at": NOW, "disabled_because": "it was silent for a day"}
    answers(api, "GET /v1/webhooks", {"data": [HOOK, away]})

    _, well, ill = vlyard(api, "webhooks").stdout.splitlines()

    assert well.split() == [ID, "https://a.example/hook", "job.failed", "enabled"]
    assert ill.endswith("it was silent for a day")


def test_a_webhook_is_told_of_the_events_that_were_asked_for_or_of_all(api: SmallApi) -> None:
    sent = []
    some = ["--event", "job.failed", "--event", "job.succeeded"]
    for words in ([], some):
        answers(api, "POST /v1/webhooks", {**HOOK, "secret": "whsec_shown"}, 201)
        ran = vlyard(api, "webhooks", "create", "https://a.example/hook", *words)
        sent.append(json.loads(api.asked[-1].body)["events"])

    assert "whsec_shown" in ran.stdout
    assert sent == [["job.succeeded", "job.failed", "job.cancelled"], ["job.failed", "job.succeeded"]]


@pytest.mark.parametrize(
    ("verb", "request_line", "body"),
    [
        ("delete", f"DELETE /v1/webhooks/{ID}", None),
        ("enable", f"POST /v1/webhooks/{ID}/enable", HOOK),
        ("rotate", f"POST /v1/webhooks/{ID}/rotate", {**HOOK, "secret": "whsec_new"}),
        ("redeliver", f"POST /v1/webhooks/deliveries/{ID}/redeliver", MESSAGE),
        ("test", f"POST /v1/webhooks/{ID}/test", {"id": ID, "delivered": True, "status": 204}),
    ],
)
def test_a_verb_asks_for_what_it_says(api: SmallApi, verb: str, request_line: str, body: Any) -> None:
    answers(api, request_line, body, 200 if body else 204)

    ran = vlyard(api, "webhooks", verb, ID, "--json")

    asked = api.asked[-1]
    assert (ran.exit_code, f"{asked.method} {asked.path}") == (0, request_line)
    assert json.loads(ran.stdout).items() >= (body or {"deleted": ID}).items()


def test_messages_are_listed_over_all_pages_with_what_became_of_them(api: SmallApi) -> None:
    given_up = {**MESSAGE, "state": "exhausted", "tries": 10, "last_status": 500, "last_error": "answered 500"}
    for form, limit in (("", "50"), ("--json", "50"), ("--json", "1")):
        path = f"GET /v1/webhooks/{ID}/deliveries"
        pages = [{"data": [MESSAGE], "next_cursor": ID}, {"data": [given_up], "next_cursor": None}]
        api.faults[path] = [Fault(Reply(200, json.dumps(page).encode())) for page in pages]
        ran = vlyard(api, "webhooks", "deliveries", ID, "--limit", limit, *form.split())
        if not form:
            _, waiting, over = ran.stdout.splitlines()

    assert waiting.split()[:5] == [ID, "job.failed", ID, "pending", "0"]
    assert over.split()[3:7] == ["exhausted", "10", "answered", "500"]
    assert (api.asked[0].query, api.asked[1].query) == ({}, {"cursor": ID})
    assert [each["state"] for each in json.loads(ran.stdout)] == ["pending"]


def test_a_ping_that_does_not_arrive_fails_the_command(api: SmallApi) -> None:
    answers(api, f"POST /v1/webhooks/{ID}/test", {"id": ID, "delivered": False, "status": 500, "error": "it says 500"})

    ran = vlyard(api, "webhooks", "test", ID)

    assert isinstance(ran.exception, Unavailable)
    assert "it says 500" in str(ran.exception)
