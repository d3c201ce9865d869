"""Waiting for what happens to jobs without holding a thread or a database session for each who waits.

One listener per process hears that something happened; one query for each kind of news then asks on behalf of all
who wait for it.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from control.wakeup import Channel, Listener
from db import events, jobs, logs
from db.models import JobEvent
from db.session import Database
from vlyard.errors import Unavailable

log = structlog.get_logger()

_POLL_SECONDS = 1.0  # how soon news are noticed whose wake-up was lost
_PAUSE = 3  # times as long as a look took, until the next one, however often somebody wakes us: a quarter of the time
_BATCH = 200  # events or pieces of a log that one look brings to one who waits

Wish = TypeVar("Wish")
News = TypeVar("News")


class Lookout(Generic[Wish, News]):
    """Those who wait for news of one kind. Who wishes the same shares the answer."""

    def __init__(self, look: Callable[[Session, Sequence[Wish]], Mapping[Wish, News]]) -> None:
        self._look = look
        self._is_over = False
        self._waiting: defaultdict[Wish, set[asyncio.Future[News | None]]] = defaultdict(set)

    def wishes(self) -> Sequence[Wish]:
        """What is waited for now."""
        return list(self._waiting)

    def look(self, session: Session, wishes: Sequence[Wish]) -> Mapping[Wish, News]:
        """What there is of it in the database."""
        return self._look(session, wishes) if wishes else {}

    def tell(self, found: Mapping[Wish, News]) -> None:
        """Wake those whose news came."""
        for wish, news in found.items():
            for future in self._waiting.get(wish, ()):
                if not future.done():
                    future.set_result(news)

    def end(self) -> None:
        """Have everybody's time be over, and that of whoever comes."""
        self._is_over = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def cancel(self) -> None:
        """Send everybody home."""
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    async def wait(self, wish: Wish, seconds: float) -> News | None:
        """The news once there are any; None when the time is over."""
        if self._is_over:
            return None
        future: asyncio.Future[News | None] = asyncio.get_running_loop().create_future()
        self._waiting[wish].add(future)
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return None
        finally:
            self._waiting[wish].discard(future)
            if not self._waiting[wish]:
                del self._waiting[wish]


class Waiters:
    """Everybody in this process who waits for something to happen to a job."""

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self._ends = Lookout[UUID, None](lambda session, ids: dict.fromkeys(jobs.ended(session, ids)))
        self._events = Lookout[events.Place, Sequence[JobEvent]](lambda session, at: events.news(session, at, _BATCH))
        self._logs = Lookout[logs.Place, logs.Said](lambda session, at: logs.news(session, at, _BATCH))
        self.dismissed = False  # nobody is to wait any more: the process ends
        self._heard = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._listener = Listener(url, (Channel.ENDED, Channel.EVENTS), self._on_heard)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._watch())
        self._listener.start()

    def dismiss(self) -> None:
        """Let everybody who waits go on as if the time were over, from any thread; nobody waits from then on."""
        self.dismissed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._send_on)

    def _send_on(self) -> None:
        for lookout in (self._ends, self._events, self._logs):
            lookout.end()

    async def stop(self) -> None:
        await run_in_threadpool(self._listener.stop)
        if self._task is not None:
            self._task.cancel()
        for lookout in (self._ends, self._events, self._logs):
            lookout.cancel()

    async def ended(self, job: UUID, seconds: float) -> None:
        """Return when the job has ended, or when the time is over."""
        self._heard.set()  # it may have ended before anybody waited
        await self._ends.wait(job, seconds)

    async def events_after(self, job: UUID, after: int, seconds: float) -> Sequence[JobEvent]:
        """The job's next events after a number, in order, as soon as there are any; none when the time is over."""
        self._heard.set()
        return await self._events.wait(events.Place(job, after), seconds) or ()

    async def said_after(self, job: UUID, attempt: int, after: int, seconds: float) -> logs.Said:
        """The next pieces of an attempt's log, or its end, as soon as they are there; none when the time is over."""
        self._heard.set()
        return await self._logs.wait(logs.Place(job, attempt, after), seconds) or logs.Said((), over=False)

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), _POLL_SECONDS)
            self._heard.clear()
            wishes = self._ends.wishes(), self._events.wishes(), self._logs.wishes()
            if not any(wishes):
                continue
            began = time.monotonic()
            try:
                ended, happened, said = await run_in_threadpool(self._look, *wishes)
            except Unavailable as error:  # the next look finds it
                log.warning("news not read", reason=str(error))
            except Exception:  # without this task whoever waits would wait for ever
                log.exception("news not read")
            else:
                self._ends.tell(ended)
                self._events.tell(happened)
                self._logs.tell(said)
            await asyncio.sleep(min(_POLL_SECONDS, _PAUSE * (time.monotonic() - began)))

    def _look(
        self, ends: Sequence[UUID], places: Sequence[events.Place], logged: Sequence[logs.Place]
    ) -> tuple[Mapping[UUID, None], Mapping[events.Place, Sequence[JobEvent]], Mapping[logs.Place, logs.Said]]:
        with self._database.transaction() as session:
            return (
                self._ends.look(session, ends),
                self._events.look(session, places),
                self._logs.look(session, logged),
            )

    def _on_heard(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._heard.set)
