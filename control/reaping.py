"""Closing what is overdue: attempts whose leases ran out, jobs that expired, shares of a job that has ended.

A job at which this fails, for whatever reason, is left alone for a while and holds up no other.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from control import lifecycle
from control.endings import stop_orphans
from control.expiry import expire
from control.lifecycle import Rules
from db import jobs, leases, queue
from db.session import Database
from vlyard.errors import Unavailable

log = structlog.get_logger()

_AT_ONCE = 500  # rows in one transaction
_LEFT_ALONE_SECONDS = 60.0


@dataclass(frozen=True)
class _Step:
    """Something that becomes overdue: which jobs, without those that are left alone, and how they are closed."""

    name: str
    find: Callable[[Session, int, Collection[UUID]], Sequence[UUID]]
    close: Callable[[Session, Collection[UUID]], int]  # those of them that are still overdue; returns how many


class Reaper:
    """Closes what is overdue, for one dispatcher."""

    def __init__(self, database: Database, rules: Rules) -> None:
        self._database = database
        self._left_alone: dict[UUID, float] = {}  # until when, monotonic
        self._steps = (
            _Step("attempts", leases.expired, partial(_reap, rules)),
            _Step("expired", jobs.expired, expire),
            _Step("orphans", jobs.orphans, stop_orphans),
        )

    def reap(self) -> dict[str, int]:
        """How much of each was closed. Raises `Unavailable` where the database is away, and nothing else."""
        with self._database.transaction() as session:
            queue.admit(session, _AT_ONCE)
        now = time.monotonic()
        self._left_alone = {job: until for job, until in self._left_alone.items() if until > now}
        return {step.name: self._take(step) for step in self._steps}

    def _take(self, step: _Step) -> int:
        with self._database.transaction() as session:
            due = step.find(session, _AT_ONCE, self._left_alone.keys())
        if not due:
            return 0
        try:
            return self._close(step, due)
        except Unavailable:
            raise
        except Exception:
            log.exception("cannot be closed together", step=step.name, count=len(due))
        return sum(self._close_alone(step, job) for job in due)

    def _close_alone(self, step: _Step, job: UUID) -> int:
        try:
            return self._close(step, [job])
        except Unavailable:
            raise
        except Exception:  # of ours, or something in its row is not to the database's liking
            log.exception("left alone for a while", step=step.name, job=str(job))
            self._left_alone[job] = time.monotonic() + _LEFT_ALONE_SECONDS
            return 0

    def _close(self, step: _Step, among: Collection[UUID]) -> int:
        with self._database.transaction() as session:
            return step.close(session, among)


def _reap(rules: Rules, session: Session, among: Collection[UUID]) -> int:
    return lifecycle.reap(session, rules, _AT_ONCE, among)
