"""What the next attempt at a job goes on from: checkpoints, which exist only once a fenced row names them.

Listing the store is never the truth: what lies there without a row is what a worker left that died in between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from db import checkpoints
from db.checkpoints import Kept
from db.leases import Claimed
from db.queue import Pair
from vlyard.errors import OutOfMemory
from vlyard.jobs.kinds import KINDS


@dataclass(frozen=True)
class Resumption:
    """What earlier attempts left to the one that begins now."""

    kept: Kept | None = None  # the checkpoint of the most steps
    shortages: int = 0  # attempts that ran out of memory


def resumptions(session: Session, company: Sequence[Claimed]) -> Mapping[UUID, Resumption]:
    """What each claimed job goes on from, without those of kinds that always begin anew."""
    jobs = [claimed.job for claimed in company if KINDS[claimed.kind].resumes]
    if not jobs:
        return {}
    kept = checkpoints.newest(session, jobs)
    shortages = checkpoints.ended_with(session, jobs, OutOfMemory.code)
    return {job: Resumption(kept.get(job), shortages.get(job, 0)) for job in jobs}


def keep(session: Session, worker: UUID, pair: Pair, kept: Kept, latest: int) -> Sequence[str] | None:
    """Have a checkpoint exist, and those before it but for so many of the latest no more.

    Returns the keys of those that are none any more, whose objects may go once the transaction is over; None where the
    attempt is not the worker's any more: then nothing changed.
    """
    if not checkpoints.record(session, worker, pair, kept):
        return None
    return checkpoints.drop_older(session, pair[0], latest)
