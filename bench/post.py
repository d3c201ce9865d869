"""Jobs a second that one API process takes one by one, over 16 connections.

The baseline is `bench.insert_alone`: the same uvicorn, the same number of database connections, one endpoint without
authentication that does one INSERT of one row. Ours knows the caller, checks the job, and stores it with its first
event; with an Idempotency-Key, that too.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import orjson

from bench.figure import Figure, in_turns
from bench.load import answers_a_second, request
from bench.stage import IDLE_POOL, Stage, Yard, answers
from control.stack.ports import LOOPBACK, free_port
from control.stack.supervisor import Process

_BODY = orjson.dumps({"spec": {"kind": "noop"}, "pool": IDLE_POOL})
_REQUESTS = 1_500  # in one turn


def measure(stage: Stage) -> Sequence[Figure]:
    with stage.yard("api") as yard, insert_alone(stage, yard) as url:
        plain, alone = in_turns(lambda: posts_a_second(yard, _REQUESTS), lambda: _rows_a_second(url))
        keyed, again = in_turns(lambda: posts_a_second(yard, _REQUESTS, keyed=True), lambda: _rows_a_second(url))
    name = "FastAPI and one INSERT"
    return [
        Figure("POST one job, 16 connections", "jobs/s", "more", plain, name, alone, bar=0.6),
        Figure("the same with Idempotency-Key", "jobs/s", "more", keyed, name, again, bar=0.5),
    ]


def posts_a_second(yard: Yard, count: int, *, keyed: bool = False) -> float:
    """Submit so many jobs that nobody runs, each with a request of its own."""
    url = f"{yard.api}/v1/jobs"
    headers = {"Authorization": f"Bearer {yard.key}"}

    def make() -> bytes:
        return request(url, _BODY, {**headers, "Idempotency-Key": uuid4().hex} if keyed else headers)

    return answers_a_second(url, make, count)


def _rows_a_second(url: str) -> float:
    sent = request(url, _BODY, {})
    return answers_a_second(url, lambda: sent, _REQUESTS)


@contextmanager
def insert_alone(stage: Stage, yard: Yard) -> Iterator[str]:
    """The URL of the baseline, which writes into the yard's database."""
    port = free_port((yard.settings.api_port,))
    words = (yard.database_url, str(yard.settings.api_connections), LOOPBACK, str(port))
    url = f"http://{LOOPBACK}:{port}/rows"
    command = (sys.executable, "-m", "bench.insert_alone", *words)
    with stage.running(Process("insert-alone", command, lambda: answers(url))):
        yield url
