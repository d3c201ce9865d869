"""Machines whose clock is an hour off: leases, expiries and retries go by the database's clock alone."""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from control.stack.ports import free_port
from control.stack.supervisor import Process
from db.models import Outcome
from tests.system import System, eventually
from vlyard.jobs.state import State

HOUR = timedelta(hours=1)
LEASE = timedelta(seconds=4)

# Read by every Python before anything else. Only the time of day is shifted; what measures durations goes on.
_SHIFT = """
import datetime, os, time_machine
now = datetime.datetime.now(datetime.timezone.utc)
shift = datetime.timedelta(seconds=float(os.environ["CLOCK_IS_OFF_BY_SECONDS"]))
time_machine.travel(now + shift, tick=True).start()
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.settings(LEASE_SECONDS="4")]


def _start(system: System, folder: Path, off_by: timedelta, name: str, *words: str, **more: str) -> None:
    """Start a role on a machine whose clock is wrong; its log shows that it is."""
    (folder / "sitecustomize.py").write_text(_SHIFT)
    environment = {
        **system.environment,
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "CLOCK_IS_OFF_BY_SECONDS": str(off_by.total_seconds()),
        **more,
    }
    program = str(Path(sys.executable).with_name("vlyard"))
    system.supervisor.start(Process(name, (program, *words), lambda: True, environment, patience=120))


def _start_worker(system: System, folder: Path, off_by: timedelta, name: str) -> None:
    _start(system, folder, off_by, name, "worker", "--device", "cpu", "--name", name)
    eventually(lambda: any(row.name == name for row in system.living()), 60, f"the worker {name}")

    def said() -> list[str]:
        return [line for line in system.log(name).splitlines() if line.startswith("{")]

    told = datetime.fromisoformat(json.loads(eventually(said)[0])["timestamp"]) - _now()
    assert abs(told - off_by) < HOUR / 4


def test_workers_whose_clocks_are_wrong_keep_their_leases_and_lose_them_when_they_die(
    system: System, tmp_path: Path
) -> None:
    # given a worker that is an hour ahead, and a job that outlasts its lease
    system.start_dispatcher()
    _start_worker(system, tmp_path, HOUR, "ahead")
    job = system.submit(seconds=2 * LEASE.total_seconds())
    eventually(lambda: system.job(job).state is State.RUNNING)
    # then its lease is as long as any, and is kept
    lease = system.job(job).lease_until
    assert lease is not None
    assert abs(lease - _now()) <= 2 * LEASE
    assert system.ended(job).state is State.SUCCEEDED
    [attempt] = system.attempts(job)
    assert attempt.ended_at is not None
    assert LEASE < attempt.ended_at - attempt.started_at < 10 * LEASE
    # when it dies, with another one that is an hour behind
    job = system.submit(seconds=2 * LEASE.total_seconds())
    eventually(lambda: system.job(job).state is State.RUNNING)
    killed_at = _now()
    system.kill("ahead")
    _start_worker(system, tmp_path, -HOUR, "behind")
    # then the lease runs out in its time, and the next attempt is neither given up early nor for ever
    assert system.ended(job).state is State.SUCCEEDED
    lost, won = system.attempts(job)
    assert (lost.outcome, won.outcome) == (Outcome.LOST, Outcome.SUCCEEDED)
    assert lost.ended_at is not None
    assert lost.ended_at - killed_at < LEASE + timedelta(seconds=5)


def test_jobs_that_wrong_clocks_accepted_expire_when_they_should(system: System, tmp_path: Path) -> None:
    # given two APIs, one an hour ahead and one an hour behind
    headers = {"Authorization": f"Bearer {system.key()}"}
    soon: list[UUID] = []
    later: list[UUID] = []
    for name, off_by in (("ahead", HOUR), ("behind", -HOUR)):
        port = free_port(())
        url = f"http://127.0.0.1:{port}"
        _start(system, tmp_path, off_by, name, "api", VLYARD_API_PORT=str(port))
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
            eventually(partial(_answers, client), 60, "the API")
            told = parsedate_to_datetime(client.get("/healthz").headers["Date"]) - _now()
            assert abs(told - off_by) < HOUR / 4
            # when jobs are submitted that are worth starting for a second, and for ten minutes
            for seconds, jobs in ((1, soon), (600, later)):
                body = {"spec": {"kind": "noop"}, "expires_in": seconds}
                jobs.append(UUID(client.post("/v1/jobs", json=body).raise_for_status().json()["id"]))
    # then the ones expire, and the others run
    system.start_dispatcher()
    for job in soon:
        row = system.ended(job)
        assert (row.state, (row.error or {})["code"]) == (State.FAILED, "expired")
    assert {system.job(job).state for job in later} == {State.QUEUED}
    system.start_worker(name="worker")
    assert {system.ended(job).state for job in later} == {State.SUCCEEDED}


def _answers(client: httpx.Client) -> bool:
    """Whether the API runs. It is not ready: the artefact store refuses signatures from another hour."""
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False


def _now() -> datetime:
    return datetime.now(UTC)
