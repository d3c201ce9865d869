"""Reading what happened to jobs. An event's number is given under its job's row lock: where n is seen, n - 1 is too."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Uuid, cast, func, select, true
from sqlalchemy.orm import Session, aliased

from db.models import JobEvent


@dataclass(frozen=True)
class Place:
    """How far somebody has read a job's events: all up to this number."""

    job: UUID
    after: int


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
