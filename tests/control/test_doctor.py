"""`vlyard doctor` on a machine of the server side: real servers, and each of them broken."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from control.stack.ports import free_port
from db.migrating import downgrade
from tests.system import System
from vlyard.cli.app import build

SERVERS = ("postgresql", "redis", "s3", "work_dir", "cache_dir")
LONGEST = 60.0  # seconds for all checks together, torch among them


def doctor(system: System, *words: str, **changes: str) -> Result:
    system.store.ensure_bucket()
    own = {**system.environment, "VLYARD_CACHE_DIR": str(system.logs), **changes}
    return CliRunner().invoke(build(["doctor"]), ["doctor", *words], env=own)


def found(ran: Result) -> dict[str, dict[str, str]]:
    return {each["name"]: each for each in json.loads(ran.stdout)}


def test_where_all_servers_are_well_it_says_so_and_leaves_nothing_behind(vlyard: System) -> None:
    vlyard.store.ensure_bucket()
    before = list(vlyard.store.listed("doctor/"))

    ran = doctor(vlyard, "--json")

    told = found(ran)
    assert ran.exit_code == 0, ran.stdout
    assert {name: told[name]["mark"] for name in SERVERS} == dict.fromkeys(SERVERS, "ok")
    assert told["url"]["mark"] == "skipped"  # a machine that serves asks nobody
    assert {told[name]["mark"] for name in ("torch", "attention", "self-test")} == {"ok"}
    assert "GiB free" in told["cache_dir"]["found"]
    assert list(vlyard.store.listed("doctor/")) == before


@pytest.mark.parametrize(
    ("name", "setting", "value", "words"),
    [
        ("postgresql", "VLYARD_DATABASE_URL", "postgresql://127.0.0.1:{port}/x", "refused"),
        ("redis", "VLYARD_REDIS_URL", "redis://127.0.0.1:{port}/0", "refused"),
        ("s3", "VLYARD_S3_ENDPOINT", "http://127.0.0.1:{port}", "artefact store"),
        ("s3", "VLYARD_S3_SECRET_KEY", "wrong", "artefact store"),
        ("s3", "VLYARD_S3_BUCKET", "nowhere-at-all", "404"),
        ("work_dir", "VLYARD_WORK_DIR", "{file}/scratch", "no folder that this user can write"),
        ("cache_dir", "VLYARD_CACHE_DIR", "{file}", "no folder that this user can write"),
    ],
)
def test_a_server_that_is_broken_is_named_with_what_to_do_and_the_others_are_well(
    vlyard: System, tmp_path: Path, name: str, setting: str, value: str, words: str
) -> None:
    (tmp_path / "file").touch()
    given = value.format(port=free_port(()), file=tmp_path / "file")
    began = time.monotonic()

    ran = doctor(vlyard, "--json", **{setting: given})

    told = found(ran)
    broken = told.pop(name)
    assert (ran.exit_code, broken["mark"], bool(broken["fix"])) == (1, "broken", True)
    assert words in broken["found"]
    assert {told[each]["mark"] for each in SERVERS if each != name} == {"ok"}
    assert time.monotonic() - began < LONGEST


def test_a_schema_of_an_older_version_is_broken(vlyard: System) -> None:
    downgrade(vlyard.settings.database_url.get_secret_value(), "base")

    ran = doctor(vlyard)

    assert ran.exit_code == 1
    assert "✗ postgresql: it answers, and its schema is of an older version\n    → run vlyard migrate" in ran.stdout


def test_a_setting_that_cannot_be_read_is_named(vlyard: System) -> None:
    ran = doctor(vlyard, "--json", VLYARD_API_PORT="99999")

    assert ran.exit_code == 1
    assert "VLYARD_API_PORT" in found(ran)["settings"]["found"]
