"""What attempts' handlers said: kept in pieces, numbered from 1 within the attempt, only ever added."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Text, Uuid, cast, func, or_, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from db.models import Attempt, Job, JobLog
from vlyard.jobs.state import TERMINAL, State


@dataclass(frozen=True)
class Piece:
    """Whole lines that an attempt's handler said one after the other."""

    job: UUID
    attempt: int
    seq: int
    text: str


@dataclass(frozen=True)
class Place:
    """How far somebody has read an attempt's log: all pieces up to this number."""

    job: UUID
    attempt: int
    after: int


@dataclass(frozen=True)
class Said:
    """What somebody who reads a log has not read yet, and whether that is all there will ever be."""

    pieces: Sequence[JobLog]
    over: bool


def append(session: Session, worker: UUID, pieces: Sequence[Piece]) -> None:
    """Add to the logs of attempts that the worker still holds, in one statement; a piece that is there stays as it is.

    Pieces of attempts that it holds no longer are dropped.
    """
    if not pieces:
        return
    new = (
        func.unnest(
            cast([piece.job for piece in pieces], ARRAY(Uuid)),
            cast([piece.attempt for piece in pieces], ARRAY(Integer)),
            cast([piece.seq for piece in pieces], ARRAY(Integer)),
            cast([piece.text for piece in pieces], ARRAY(Text)),
        )
        .table_valued("job", "attempt", "seq", "text")
        .render_derived(name="new")
    )
    held = (
        select(new.c.job, new.c.attempt, new.c.seq, new.c.text)
        .join(Job, (Job.id == new.c.job) & (Job.attempt == new.c.attempt))
        .where(Job.worker_id == worker, Job.state == State.RUNNING)
    )
    columns = [JobLog.job_id, JobLog.attempt, JobLog.seq, JobLog.text]
    session.execute(insert(JobLog).from_select(columns, held).on_conflict_do_nothing())


def news(session: Session, places: Sequence[Place], limit: int) -> Mapping[Place, Said]:
    """The next pieces in order, `limit` at most, of each place that has some or is the end: two statements for all."""
    over = _over(session, places)  # first, because the last pieces are there before the attempt's end is
    asked = _asked(places)
    following = (
        select(JobLog)
        .where(JobLog.job_id == asked.c.job, JobLog.attempt == asked.c.attempt, JobLog.seq > asked.c.after)
        .order_by(JobLog.seq)
        .limit(limit)
        .lateral("following")
    )
    piece = aliased(JobLog, following)
    query = select(asked.c.after, piece).select_from(asked).join(following, true())
    found: defaultdict[Place, list[JobLog]] = defaultdict(list)
    for read, row in session.execute(query.order_by(piece.seq)):
        found[Place(row.job_id, row.attempt, read)].append(row)
    return {place: Said(found[place], place in over and len(found[place]) < limit) for place in {*found, *over}}


def _over(session: Session, places: Sequence[Place]) -> set[Place]:
    """Where nothing will be said any more: the attempt has ended, or its job went on without it."""
    asked = _asked(places)
    query = (
        select(asked.c.job, asked.c.attempt, asked.c.after)
        .join(Job, Job.id == asked.c.job)
        .outerjoin(Attempt, (Attempt.job_id == asked.c.job) & (Attempt.number == asked.c.attempt))
        .where(or_(Attempt.ended_at.is_not(None), Job.state.in_(TERMINAL), Job.attempt > asked.c.attempt))
    )
    return {Place(*row) for row in session.execute(query)}


def _asked(places: Sequence[Place]) -> Any:
    return (
        func.unnest(
            cast([place.job for place in places], ARRAY(Uuid)),
            cast([place.attempt for place in places], ARRAY(Integer)),
            cast([place.after for place in places], ARRAY(Integer)),
        )
        .table_valued("job", "attempt", "after")
        .render_derived(name="asked")
    )
