"""Server-sent events: what a stream looks like on the wire, and the streams of one job's events and of its log.

A stream holds no thread and no database session while nothing happens.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from api.desk import Desk
from api.waiting import Waiters
from db.models import JobEvent, JobLog
from vlyard.errors import Complaint, InvalidInput, Unauthenticated, Unavailable
from vlyard.jobs.events import DONE, STREAM_TYPE, Event
from vlyard.jobs.output import LogPiece

PLAIN_TYPE = "text/plain"
HEARTBEAT_SECONDS = 15.0
_HEARTBEAT = ": still here\n\n"
# A proxy that collects answers before it passes them on would hold a stream back: nginx heeds this header,
# https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering
_MOST_DIGITS = 9  # of an event's number
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def stream(messages: AsyncIterator[str], desk: Desk, look_seconds: float) -> StreamingResponse:
    """The answer that carries these messages, each as soon as it is there, for as long as the key opens anything."""
    return StreamingResponse(_while_admitted(messages, desk, look_seconds), media_type=STREAM_TYPE, headers=_HEADERS)


async def _while_admitted(messages: AsyncIterator[str], desk: Desk, look_seconds: float) -> AsyncIterator[str]:
    looked = time.monotonic()
    async for each in messages:
        if time.monotonic() - looked >= look_seconds:
            try:
                await desk.still_opens(look_seconds)
            except Unauthenticated:  # it was taken back; who comes again hears so
                return
            except Unavailable:  # the next look finds it
                pass
            looked = time.monotonic()
        yield each


def message(type: str, data: BaseModel | None = None, seq: int | None = None) -> str:
    """One message as the standard has it, section 9.2.6: JSON escapes CR and LF, which alone end lines there."""
    number = "" if seq is None else f"id: {seq}\n"
    return f"{number}event: {type}\ndata: {data.model_dump_json() if data else '{}'}\n\n"


def event_view(row: JobEvent) -> Event:
    """An event as the API shows it."""
    return Event(seq=row.seq, at=row.at, type=row.type, data=row.data)


async def event_messages(
    waiters: Waiters, job: UUID, after: int, ended: bool, heartbeat_seconds: float
) -> AsyncIterator[str]:
    """The job's events after a number, as they happen, until it has ended. `ended`: there are none after it."""
    while not ended:
        if waiters.dismissed:
            return  # whoever reads on does so elsewhere, from the last number
        found = await waiters.events_after(job, after, heartbeat_seconds)
        if not found:
            yield _HEARTBEAT
        for row in found:
            event = event_view(row)
            yield message(event.type, event, event.seq)
            after = event.seq
            ended = event.ends is not None
    yield message(DONE)


def log_view(row: JobLog) -> LogPiece:
    """A piece of a log as the API shows it."""
    return LogPiece(seq=row.seq, at=row.at, text=row.text)


async def log_messages(
    waiters: Waiters, job: UUID, attempt: int, after: int, heartbeat_seconds: float
) -> AsyncIterator[str]:
    """The pieces of an attempt's log after a number, as they come, until the attempt has ended."""
    over = False
    while not over:
        if waiters.dismissed:
            return
        said = await waiters.said_after(job, attempt, after, heartbeat_seconds)
        over = said.over
        if not said.pieces and not over:
            yield _HEARTBEAT
        for row in said.pieces:
            yield message("log", log_view(row), row.seq)
            after = row.seq
    yield message(DONE)


@dataclass(frozen=True)
class Reading:
    """How somebody reads what a job brings forth bit by bit."""

    after: int  # the number up to which it was read before
    streamed: bool  # as a stream of server-sent events instead of a page
    plain: bool  # as plain text instead of a page
    heartbeat_seconds: float  # after which a stream on which nothing happens says so


async def reading(
    request: Request,
    after: Annotated[int, Query(ge=0, lt=10**_MOST_DIGITS, description="What comes after this number.")] = 0,
    last_event_id: Annotated[str, Header(description="The same, as a stream that reconnects sends it.")] = "",
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Reading:
    """What the request says of it; the number with which a stream reconnects counts for more than the query's."""
    number = last_event_id or str(after)
    if not (number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS):
        what = f"{last_event_id!r} is no event's number"
        raise InvalidInput(complaints=[Complaint("/header/last-event-id", what, "send the last `id:` that came")])
    return Reading(int(number), STREAM_TYPE in accept, PLAIN_TYPE in accept, request.app.state.heartbeat_seconds)


AsRead = Annotated[Reading, Depends(reading)]
