"""What an endpoint works with: who asks, one transaction at a time, and a way to wait without holding one."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid4

from fastapi import Depends, Header, Query, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.intake import Intake
from api.threads import Shared, Storing
from api.waiting import Waiters
from control.accounts import Caller, authenticate
from control.artefacts import ArtefactStore
from control.settings import Settings
from control.submit import Submitted, submit
from control.wakeup import Bell, Channel
from db.migrating import is_served
from db.session import Database
from vlyard.errors import Unauthenticated, Unavailable
from vlyard.jobs.view import Submission

Answer = TypeVar("Answer")
Work = Callable[[Session, Caller], Answer]

LONGEST_WAIT_SECONDS = 60.0
_LONGEST_CHECK_SECONDS = 5.0


class Admissions:
    """Which keys were found to open something, or not, a moment ago: hundreds of streams ask, many with one key."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[float, asyncio.Task[Caller]]] = {}  # when, monotonic

    async def ask(self, key: str, find: Callable[[], Coroutine[Any, Any, Caller]], seconds: float) -> None:
        """Raise what `find` raises; it is called where nobody has called it for this key for so long."""
        now = time.monotonic()
        self._asked = {known: found for known, found in self._asked.items() if now - found[0] < seconds}
        if key not in self._asked:
            self._asked[key] = now, asyncio.create_task(find())
        _, asked = self._asked[key]
        await asyncio.wait([asked])  # who goes away meanwhile ends it for nobody
        asked.result()


@dataclass(frozen=True)
class House:
    """The connections that one API process holds for its life."""

    settings: Settings
    database: Database
    store: ArtefactStore
    bell: Bell
    waiters: Waiters
    intake: Intake
    storing: Storing = field(default_factory=Storing)
    admissions: Admissions = field(default_factory=Admissions)

    @cached_property
    def readiness(self) -> Shared[None]:
        """Whether the servers are there that it needs; raises `Unavailable` where one is not."""
        return Shared(self._check, _LONGEST_CHECK_SECONDS)

    def _check(self) -> None:
        with self.database.transaction() as session:
            if not is_served(session.connection()):
                raise Unavailable("the database's schema is of an older version: run `vlyard migrate`")
        self.store.reachable()


@dataclass(frozen=True)
class Desk:
    """Where one request is served."""

    house: House
    key: str

    async def run(self, work: Work[Answer]) -> Answer:
        """Do the work in one transaction, committed before the answer leaves, as the caller whom the key names."""
        return await run_in_threadpool(self._run, work)

    async def run_and_wake(self, work: Work[Answer], *channels: Channel) -> Answer:
        """Do the work, and once it is committed wake who listens."""
        answer = await self.run(work)
        self.house.bell.strike(*channels)
        return answer

    async def submit(self, submission: Submission, idempotency_key: str | None) -> Submitted:
        """Store a job: in company, unless it waits for another one's output, which may take its time."""
        if next(submission.spec.references(), None) is None and not submission.spec.split_up(uuid4):
            return await self.house.intake.take(self.key, submission, idempotency_key)
        return await self.run_and_wake(
            lambda session, caller: submit(session, caller, submission, idempotency_key), Channel.WORK
        )

    async def still_opens(self, seconds: float) -> None:
        """Raises `Unauthenticated` where the key was taken back, as far as anybody who has it knew so long ago."""
        await self.house.admissions.ask(self.key, partial(self.run, lambda _session, caller: caller), seconds)

    async def ended(self, job: UUID, seconds: float) -> None:
        """Wait for a job's end, for so long at most; the caller must have been allowed to see the job."""
        if seconds > 0:
            await self.house.waiters.ended(job, seconds)

    def _run(self, work: Work[Answer]) -> Answer:
        with self.house.database.transaction() as session:
            return work(session, authenticate(session, self.key))


async def house_of(request: Request) -> House:
    house: House = request.app.state.house
    return house


async def desk(
    house: Annotated[House, Depends(house_of)],
    authorization: Annotated[str, Header(include_in_schema=False)] = "",
) -> Desk:
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated
    return Desk(house, key.strip())


async def wait_seconds(
    wait: Annotated[
        float | None, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Seconds to wait for the job's end.")
    ] = None,
    prefer: Annotated[str, Header(description="`wait=<seconds>`, as RFC 7240 has it.")] = "",
) -> float:
    """How long the caller wants to wait: the query parameter, else the header."""
    if wait is not None:
        return wait
    for preference in prefer.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "wait" and value.isdecimal():
            return min(float(value), LONGEST_WAIT_SECONDS)
    return 0.0


AtHouse = Annotated[House, Depends(house_of)]
AtDesk = Annotated[Desk, Depends(desk)]
Wait = Annotated[float, Depends(wait_seconds)]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="Makes retries safe: the same key and body make one thing."),
]
