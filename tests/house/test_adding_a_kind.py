"""Adding a kind of job is one row of a table and its two files: done here, to a copy, and run through everything."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import redis

from control.stack.supervisor import Process
from tests.house.tree import PACKAGES, ROOT, files
from tests.system import System, eventually

LANGUAGE = '''"""Say a text loudly."""

from typing import Literal

from vlyard.jobs.spec import Result, Spec


class ShoutSpec(Spec):
    kind: Literal["shout"] = "shout"
    text: str


class ShoutResult(Result):
    text: str
'''

HANDLER = '''"""The job that shouts."""

from vlyard.jobs.shout import ShoutResult, ShoutSpec
from workers.context import Context


def run(spec: ShoutSpec, context: Context) -> ShoutResult:
    return ShoutResult(text=f"{spec.text.upper()}!")
'''

IMPORT = "from vlyard.jobs.shout import ShoutResult, ShoutSpec\n"
ROW = """    Kind("shout", ShoutSpec, ShoutResult, Device.CPU, "workers.shout:run",
         time_limit=_HOUR, max_attempts=3, isolation=Isolation.THREAD),
"""
PROGRAM = "from vlyard.cli.app import main; main()"


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """A copy of the product that knows one kind more."""
    folder = tmp_path / "product"
    for path in files():
        if path.parts[0] in PACKAGES:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    (folder / "vlyard/jobs/shout.py").write_text(LANGUAGE)
    (folder / "workers/shout.py").write_text(HANDLER)
    table = folder / "vlyard/jobs/kinds.py"
    table.write_text(with_row(table.read_text()))
    return folder


def with_row(table: str) -> str:
    """The table's file with the import and the row added where their neighbours are."""
    before, after = "from vlyard.jobs.spec import", "\n)\n# fmt: on"
    assert table.count(before) == table.count(after) == 1
    return table.replace(before, IMPORT + before).replace(after, f"\n{ROW.rstrip()}{after}")


def test_a_kind_is_one_row_and_its_two_files(system: System, extended: Path) -> None:
    # given every role, running from a copy of the product with one kind more
    environment = {**system.environment, "PYTHONPATH": str(extended)}
    command = (sys.executable, "-c", "import vlyard; print(vlyard.__file__)")
    found = subprocess.run(command, cwd=extended, env=environment, check=True, capture_output=True, text=True).stdout
    assert Path(found.strip()).is_relative_to(extended)

    def role(name: str, *words: str) -> Process:
        program = (sys.executable, "-c", PROGRAM, name, *words)
        return Process(name, program, lambda: True, environment, folder=extended, patience=120)

    url = f"http://127.0.0.1:{system.settings.api_port}"
    system.supervisor.start(role("api"), role("dispatcher"), role("worker", "--device", "cpu"))
    eventually(lambda: is_ready(url), 120, "the API")
    # when the new kind is submitted as any other is
    headers = {"Authorization": f"Bearer {system.key()}"}
    with httpx.Client(base_url=url, headers=headers, timeout=90, trust_env=False) as client:
        told = client.post("/v1/jobs", json={"spec": {"kind": "shout", "text": "hello"}})
        assert told.status_code == httpx.codes.ACCEPTED, told.text
        job = ended(client, told.json()["id"])
        refused = client.post("/v1/jobs", json={"spec": {"kind": "shout", "words": "hello"}}).json()
        listed = client.get("/v1/jobs", params={"kind": "shout"}).json()["data"]
        described = client.get("/openapi.json").json()
    # then it ran, its faults are named, it is listed and described, and it had a queue of its own
    assert job["state"] == "succeeded", job
    assert job["result"] == {"artefacts": {}, "text": "HELLO!"}
    assert {error["pointer"] for error in refused["errors"]} == {"/spec/text", "/spec/words"}
    assert [each["id"] for each in listed] == [job["id"]]
    assert "ShoutSpec" in described["components"]["schemas"]
    spec = described["components"]["schemas"]["Submission"]["properties"]["spec"]
    assert "shout" in spec["discriminator"]["mapping"]
    assert has_queue(system, "cpu.default.shout")
    assert not has_queue(system, "gpu.default.shout")


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def ended(client: httpx.Client, job: str, seconds: float = 120) -> dict[str, object]:
    """The job once it has ended, or as it is when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        seen: dict[str, object] = client.get(f"/v1/jobs/{job}", params={"wait": 20}).raise_for_status().json()
        if seen["finished_at"] or time.monotonic() > deadline:
            return seen


def has_queue(system: System, name: str) -> bool:
    """Whether Celery has bound a queue of that name."""
    with redis.Redis.from_url(system.settings.redis_url.get_secret_value()) as connection:
        return bool(connection.exists(f"{system.settings.redis_prefix}_kombu.binding.{name}"))
