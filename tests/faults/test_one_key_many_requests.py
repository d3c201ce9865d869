"""A hundred tries of one request at once, at two API processes: one job."""

import asyncio
import sys
from pathlib import Path
from uuid import UUID

import httpx
from sqlalchemy import func, select

from control.stack.ports import free_port
from control.stack.supervisor import Process
from db.models import IdempotencyKey, Job, JobEvent
from tests.system import System

TRIES = 100
BODY = {"spec": {"kind": "noop", "echo": "once"}, "labels": {"try": "many"}}


def _start_second_api(system: System) -> str:
    """One more API of the same system; returns its URL."""
    port = free_port((system.settings.api_port,))
    program = str(Path(sys.executable).with_name("vlyard"))
    environment = {**system.environment, "VLYARD_API_PORT": str(port), "PYTHONUNBUFFERED": "1"}

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False

    system.supervisor.start(Process("second-api", (program, "api"), answers, environment, patience=120))
    return f"http://127.0.0.1:{port}"


async def _post_all(urls: list[str], key: str) -> list[httpx.Response]:
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "the same"}
    limits = httpx.Limits(max_connections=TRIES)
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=60, trust_env=False) as client:
        return await asyncio.gather(
            *(client.post(f"{urls[number % len(urls)]}/v1/jobs", json=BODY) for number in range(TRIES))
        )


def test_a_hundred_tries_at_two_apis_with_one_key_make_one_job(system: System) -> None:
    # given two API processes
    urls = [system.start_api(), _start_second_api(system)]
    key = system.key()
    # when a hundred clients send the same request with the same key
    answers = asyncio.run(_post_all(urls, key))
    # then each has the one job, or is told that it is being made, and when to ask again
    accepted = [each for each in answers if each.status_code == httpx.codes.ACCEPTED]
    others = [each for each in answers if each.status_code != httpx.codes.ACCEPTED]
    [made] = {UUID(each.json()["id"]) for each in accepted}
    assert {each.status_code for each in others} <= {httpx.codes.CONFLICT}
    assert all(each.json()["code"] == "in_flight" and int(each.headers["Retry-After"]) >= 1 for each in others)
    with system.database.transaction() as session:
        assert session.scalars(select(Job.id)).all() == [made]
        assert session.scalar(select(func.count()).select_from(JobEvent)) == 1
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 1
    # and whoever asks again has it, wherever it asks
    again = asyncio.run(_post_all(urls, key))
    assert {(each.status_code, each.json().get("id")) for each in again if each.is_success} == {(202, str(made))}
    for url in urls:
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "the same"}
        answer = httpx.post(f"{url}/v1/jobs", json=BODY, headers=headers, timeout=60, trust_env=False)
        assert answer.json()["id"] == str(made)
