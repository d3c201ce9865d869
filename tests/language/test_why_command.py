"""`vlyard why`: the API's explanation of a job, readable as lines and as JSON."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from tests.language.small_api import KEY, Fault, Reply, SmallApi, serving
from vlyard.cli.app import build
from vlyard.errors import NotFound
from vlyard.jobs.why import FARTHEST

JOB, NEEDED = str(uuid4()), str(uuid4())
WAITING: dict[str, Any] = {
    "job": JOB,
    "kind": "inference",
    "pool": "night",
    "state": "queued",
    "reason": "own_line",
    "sentence": "3 jobs of your team go first. All 2 slots are taken.",
    "next_step": "Wait, or give it a higher priority than theirs.",
    "position": 4,
    "ahead": FARTHEST + 1,
    "attempt": 2,
    "max_attempts": 3,
    "needs": [{"job": NEEDED, "kind": "conversion", "state": "succeeded", "output": "dataset"}],
    "error": {
        "code": "invalid_input",
        "message": "The picture is torn.",
        "blame": "user",
        "complaints": [{"where": "/spec/image", "what": "it ends early", "fix": "upload it again"}],
    },
}


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serving(SmallApi()) as api:
        yield api


def why(api: SmallApi, *words: str) -> Result:
    reach = {"VLYARD_URL": api.url, "VLYARD_API_KEY": KEY}
    return CliRunner().invoke(build(["why"]), ["why", *words], env=reach)


def test_it_says_everything_that_is_known_of_a_jobs_place(api: SmallApi) -> None:
    api.faults["GET /v1/jobs"] = [Fault(Reply(200, json.dumps(WAITING).encode()))]

    ran = why(api, JOB)

    first, *rest = ran.stdout.splitlines()
    told = {line[:12].strip(): line[12:].strip() for line in rest if not line.startswith("  ")}
    assert (ran.exit_code, api.asked[-1].path) == (0, f"/v1/jobs/{JOB}/why")
    assert first == WAITING["sentence"]
    assert told == {
        "job": f"{JOB} (inference in pool night)",
        "state": "queued",
        "reason": "own_line",
        "attempt": "2 of 3",
        "position": "4",
        "ahead": "more than 1,000",
        "needs": f"dataset of {NEEDED} (conversion, succeeded)",
        "last error": "The picture is torn. [invalid_input]",
        "next step": WAITING["next_step"],
    }
    assert "/spec/image: it ends early (upload it again)" in ran.stdout


def test_programs_get_the_whole_explanation_as_json(api: SmallApi) -> None:
    api.faults["GET /v1/jobs"] = [Fault(Reply(200, json.dumps(WAITING).encode()))]

    told = json.loads(why(api, JOB, "--json").stdout)

    assert {name: told[name] for name in WAITING} == WAITING


def test_a_job_that_is_not_there_is_the_apis_error(api: SmallApi) -> None:
    ran = why(api, JOB)

    assert isinstance(ran.exception, NotFound)
