"""An administrator at the command line, and the member who gets a key from there: against a real API."""

import json
from typing import Any

from typer.testing import CliRunner, Result

from tests.system import System
from vlyard.cli.app import build
from vlyard.errors import Forbidden

QUESTION = '{"kind": "inference", "messages": [{"role": "user", "content": "Are you there?"}]}'


def test_a_team_gets_a_pool_and_a_key_and_is_told_why_its_job_waits(system: System) -> None:
    url, own_key = system.start_api(), system.key("house")

    def vlyard(key: str, *words: str, stdin: str = "") -> Result:
        return CliRunner().invoke(build(words), words, env={"VLYARD_URL": url, "VLYARD_API_KEY": key}, input=stdin)

    def answer(key: str, *words: str, stdin: str = "") -> Any:
        ran = vlyard(key, *words, "--json", stdin=stdin)
        assert (ran.exit_code, ran.stderr) == (0, "")
        return json.loads(ran.stdout)

    answer(own_key, "teams", "create", "vision")
    answer(own_key, "pools", "create", "night")
    member = answer(own_key, "keys", "create", "vision")
    job = answer(member["key"], "submit", "-", "--pool", "night", stdin=QUESTION)

    why = vlyard(member["key"], "why", job["id"])
    assert why.stdout.startswith("No worker of pool 'night' that runs inference jobs is alive.\n")
    assert "vlyard worker --device gpu --pool night" in why.stdout
    assert {pool["name"] for pool in answer(member["key"], "pools")} == {"default", "night"}
    assert isinstance(vlyard(member["key"], "teams").exception, Forbidden)

    answer(own_key, "keys", "revoke", member["prefix"])
    ran = vlyard(member["key"], "doctor")
    assert ran.exit_code == 1
    assert f"✓ url: {url} answers" in ran.stdout
    assert "✓ ready: " in ran.stdout
    assert "✓ version: " in ran.stdout
    assert "✗ key: " in ran.stdout
