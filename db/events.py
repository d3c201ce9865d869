"""What happens to jobs, written and read. An event's number is given under its job's row lock: n - 1 is before n."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CTE, ColumnElement, Integer, Uuid, cast, func, insert, literal, select, true
from sqlalchemy.orm import Session, aliased

from db.models import JobEvent


@dataclass(frozen=True)
class Place:
    """How far somebody has read a job's events: all up to this number."""

    job: UUID
    after: int


def told(moved: CTE, data: Mapping[str, ColumnElement[Any]]) -> CTE:
    """One state event for each row of a statement that moves jobs and returns their `id` and `last_event`.

    It is a part of that statement: nothing travels to this process and back.
    """
    pairs = chain.from_iterable((literal(name), value) for name, value in data.items())
    rows = select(moved.c.id, moved.c.last_event, literal("state"), func.jsonb_build_object(*pairs))
    return insert(JobEvent).from_select(["job_id", "seq", "type", "data"], rows, include_defaults=False).cte("told")


def news(session: Session, places: Sequence[Place], limit: int) -> Mapping[Place, Sequence[JobEvent]]:
    """The next events in order, `limit` at most, of each place where there are any: one statement for all of them."""
    asked = (
        func.unnest(
            cast([place.job for place in places], ARRAY(Uuid)), cast([place.after for place in places], ARRAY(Integer))
        )
        .table_valued("job", "after")
        .render_derived(name="asked")
    )
    following = (
        select(JobEvent)
        .where(JobEvent.job_id == asked.c.job, JobEvent.seq > asked.c.after)
        .order_by(JobEvent.seq)
        .limit(limit)
        .lateral("following")
    )
    event = aliased(JobEvent, following)
    query = select(asked.c.after, event).select_from(asked).join(following, true())
    found: defaultdict[Place, list[JobEvent]] = defaultdict(list)
    for read, row in session.execute(query.order_by(event.seq)):
        found[Place(row.job_id, read)].append(row)
    return found
