"""/v1/jobs/{job}/events: what happened to a job, as a page or as a stream."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from api.desk import AtDesk
from api.streams import AsRead, event_messages, event_view, stream
from control.accounts import Caller
from db import events
from db.models import Job
from db.owned import owned_row
from vlyard.jobs.events import STREAM_TYPE, EventPage
from vlyard.jobs.state import TERMINAL

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=1000, description="How many a page may hold; a stream heeds it not.")]
AlsoStreamed: dict[int | str, dict[str, Any]] = {200: {"content": {STREAM_TYPE: {"schema": {"type": "string"}}}}}


@router.get("/{job}/events", summary="What happened to a job", response_model=EventPage, responses=AlsoStreamed)
async def show_events(job: UUID, desk: AtDesk, reading: AsRead, limit: Limit = 100) -> EventPage | StreamingResponse:
    """A page of the job's events; with `Accept: text/event-stream`, all of them as they happen, until it has ended."""

    def read(session: Session, caller: Caller) -> EventPage:
        row = owned_row(session, Job, caller.team, job)
        read_already = min(reading.after, row.last_event)  # nobody has read what has not happened
        place = events.Place(job, read_already)
        found = [] if reading.streamed else events.news(session, [place], limit).get(place, [])
        last = found[-1].seq if found else read_already
        ended = row.state in TERMINAL and last >= row.last_event
        return EventPage(data=tuple(map(event_view, found)), next_after=last, ended=ended)

    page = await desk.run(read)
    if not reading.streamed:
        return page
    often = reading.heartbeat_seconds
    return stream(event_messages(desk.house.waiters, job, page.next_after, page.ended, often), desk, often)
