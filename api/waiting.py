"""Waiting for jobs to end without holding a thread or a database session each.

One listener per process hears that some job ended; one query then asks for all the jobs that anybody waits for.
"""

import asyncio
from collections import defaultdict
from contextlib import suppress
from uuid import UUID

from starlette.concurrency import run_in_threadpool

from control.wakeup import Channel, Listener
from db import jobs
from db.session import Database
from vlyard.errors import Unavailable

_POLL_SECONDS = 1.0  # how soon an end is noticed when its wake-up was lost


class Waiters:
    """Everybody in this process who waits for the end of a job."""

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self._waiting: defaultdict[UUID, set[asyncio.Future[None]]] = defaultdict(set)
        self._heard = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._listener = Listener(url, (Channel.ENDED,), self._on_heard)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._watch())
        self._listener.start()

    async def stop(self) -> None:
        await run_in_threadpool(self._listener.stop)
        if self._task is not None:
            self._task.cancel()
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    async def ended(self, job: UUID, seconds: float) -> None:
        """Return when the job has ended, or when the time is over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[job].add(future)
        self._heard.set()  # it may have ended before anybody waited
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return
        finally:
            self._waiting[job].discard(future)
            if not self._waiting[job]:
                del self._waiting[job]

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), _POLL_SECONDS)
            self._heard.clear()
            if not self._waiting:
                continue
            try:
                ended = await run_in_threadpool(self._ended_among, list(self._waiting))
            except Unavailable:
                continue  # the next look finds it
            for job in ended:
                for future in self._waiting.get(job, ()):
                    if not future.done():
                        future.set_result(None)

    def _ended_among(self, waited_for: list[UUID]) -> set[UUID]:
        with self._database.transaction() as session:
            return jobs.ended(session, waited_for)

    def _on_heard(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._heard.set)
