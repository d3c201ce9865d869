"""Threads apart from those in which everything else is done: for what may hang with another server.

Where S3 hangs, only those hang who need it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Generic, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from vlyard.errors import Unavailable

_AT_ONCE = 32
_PATIENCE_SECONDS = 10.0

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Storing:
    """The calls of one API process to the artefact store: so many at a time."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def run(self, call: Callable[Given, Answer], *args: Given.args, **named: Given.kwargs) -> Answer:
        """What the call returns. Raises `Unavailable` where too many are under way for too long."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise Unavailable("the artefact store is slow: too many requests wait for it") from None
        try:
            return await _in_own_thread(partial(call, *args, **named))
        finally:
            self._free.release()

    async def pieces(self, pieces: Iterator[Answer]) -> AsyncIterator[Answer]:
        """What an iterator brings that reads from the store."""
        while (piece := await self.run(next, pieces, None)) is not None:
            yield piece


class Shared(Generic[Answer]):
    """A call that is made once for all who ask at the same time, none of whom waits for long."""

    def __init__(self, call: Callable[[], Answer], seconds: float) -> None:
        self._call = call
        self._seconds = seconds
        self._under_way: asyncio.Task[Answer] | None = None

    async def ask(self) -> Answer:
        """What the call returns or raises; raises `TimeoutError` where it takes longer, and lets it go on."""
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(_in_own_thread(self._call))
        asked = self._under_way
        done, _ = await asyncio.wait([asked], timeout=self._seconds)  # who goes away meanwhile ends it for nobody
        if not done:
            raise TimeoutError
        return asked.result()


async def _in_own_thread(call: Callable[[], Answer]) -> Answer:
    return await to_thread.run_sync(call, limiter=CapacityLimiter(1))
