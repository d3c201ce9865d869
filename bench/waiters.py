"""How long a submission takes at most, but for one in a hundred, while 200 others wait for jobs or follow them.

The baseline is the same while nobody waits.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import httpx

from bench.figure import Figure, in_turns
from bench.stage import Stage, Yard
from vlyard import Client, NoopSpec

_WAITERS = 200
_SUBMITTED = 300  # in one turn
_AT_99 = 0.99
_SETTLING_SECONDS = 5.0


def measure(stage: Stage) -> Sequence[Figure]:
    with stage.yard("api") as yard, Client(yard.api, yard.key) as client:
        job = str(client.submit(NoopSpec(seconds=3600)).id)
        return [
            _figure(client, yard, "200 waiters", {}, f"/v1/jobs/{job}?wait=60"),
            _figure(client, yard, "200 streams", {"Accept": "text/event-stream"}, f"/v1/jobs/{job}/events"),
        ]


def _figure(client: Client, yard: Yard, name: str, headers: dict[str, str], path: str) -> Figure:
    def crowded() -> float:
        with _crowd(yard, headers, path):
            return _p99(client)

    ours, alone = in_turns(crowded, lambda: _p99(client))
    return Figure(f"submit p99 beside {name}", "ms", "less", ours, "nobody waits", alone, bar=2.0)


def _p99(client: Client) -> float:
    spent = []
    for _ in range(_SUBMITTED):
        began = time.perf_counter()
        client.submit(NoopSpec())
        spent.append(time.perf_counter() - began)
    return sorted(spent)[int(_SUBMITTED * _AT_99)] * 1000


@contextmanager
def _crowd(yard: Yard, headers: dict[str, str], path: str) -> Iterator[None]:
    """So many open requests, while the block runs, from one thread."""
    loop = asyncio.new_event_loop()
    opened = threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(_hold(yard, headers, path, opened),))
    thread.start()
    opened.wait(60)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(_cancel_all, loop)
        thread.join()
        loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


async def _hold(yard: Yard, headers: dict[str, str], path: str, opened: threading.Event) -> None:
    sent = {"Authorization": f"Bearer {yard.key}", **headers}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=yard.api, headers=sent, limits=limits, timeout=None, trust_env=False) as http:
        asked = [asyncio.create_task(_ask(http, path)) for _ in range(_WAITERS)]
        await asyncio.sleep(_SETTLING_SECONDS)  # each of them has been let in
        opened.set()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*asked)


async def _ask(http: httpx.AsyncClient, path: str) -> None:
    while True:
        async with http.stream("GET", path) as reply:
            async for _ in reply.aiter_raw():
                pass
