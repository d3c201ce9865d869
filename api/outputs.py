"""What a job brings forth besides its result: the logs of its attempts, and its artefacts."""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from api.desk import AtDesk, Desk
from api.streams import PLAIN_TYPE, AsRead, log_messages, log_view, stream
from api.views import artefact_view
from control.accounts import Caller
from db import artefacts, logs
from db.models import Job
from db.owned import owned_row
from vlyard.jobs.events import STREAM_TYPE
from vlyard.jobs.output import Artefacts, LogPage

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_PIECES = 1000  # in one look
Attempt = Annotated[
    int | None, Query(ge=1, lt=2**31, description="The attempt's number; if not given, the newest one's.")
]
Follow = Annotated[bool, Query(description="As a stream, like `Accept: text/event-stream`.")]
_TEXTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": {"type": "string"}} for kind in (PLAIN_TYPE, STREAM_TYPE)}}
}


@router.get("/{job}/logs", summary="What an attempt's handler said", response_model=LogPage, responses=_TEXTS)
async def show_log(
    job: UUID, desk: AtDesk, reading: AsRead, attempt: Attempt = None, follow: Follow = False
) -> LogPage | StreamingResponse:
    """A page of the log; all of it with `Accept: text/plain`; as a stream while the attempt runs, with `follow`."""
    page = await desk.run(_page(job, attempt, reading.after))
    if follow or reading.streamed:
        waiters, often = desk.house.waiters, reading.heartbeat_seconds
        return stream(log_messages(waiters, job, page.attempt, reading.after, often), desk, often)
    return StreamingResponse(_texts(desk, job, page), media_type=PLAIN_TYPE) if reading.plain else page


@router.get("/{job}/artefacts", summary="The files that a job made")
async def show_artefacts(job: UUID, desk: AtDesk) -> Artefacts:
    """What its attempts stored, their logs among it, with short-lived links to the contents."""

    def read(session: Session, caller: Caller) -> Artefacts:
        owned_row(session, Job, caller.team, job)
        made = artefacts.made_by(session, caller.team, job)
        return Artefacts(data=tuple(artefact_view(row, desk.house.store) for row in made))

    return await desk.run(read)


def _page(job: UUID, attempt: int | None, after: int) -> Any:
    def read(session: Session, caller: Caller) -> LogPage:
        row = owned_row(session, Job, caller.team, job)
        place = logs.Place(job, attempt or max(row.attempt, 1), after)
        said = logs.news(session, [place], _PIECES).get(place, logs.Said((), over=False))
        last = said.pieces[-1].seq if said.pieces else after
        data = tuple(map(log_view, said.pieces))
        return LogPage(attempt=place.attempt, data=data, next_after=last, ended=said.over)

    return read


async def _texts(desk: Desk, job: UUID, page: LogPage) -> AsyncIterator[str]:
    """The log from a page on, as far as it goes by now."""
    while page.data:
        for piece in page.data:
            yield piece.text
        page = await desk.run(_page(job, page.attempt, page.next_after))
