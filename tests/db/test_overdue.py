"""What is overdue is found the oldest first, so much at a time, and without the jobs that are left alone."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from db import jobs, leases
from db.clock import from_now
from db.models import Job
from db.session import Database
from tests.db import rows
from vlyard.jobs.state import State

AGES = (9, 5, 4)  # seconds; the oldest first


def lost(session: Session) -> list[UUID]:
    owner, worker = rows.team(session), rows.worker(session)
    return [rows.running(session, owner, worker, lease=-age)[0] for age in AGES]


def late(session: Session) -> list[UUID]:
    owner = rows.team(session)
    return [rows.queued(session, owner, expires_at=from_now(-age)) for age in AGES]


def left_behind(session: Session) -> list[UUID]:
    """Jobs that have failed while a share of each is with a worker."""
    owner = rows.team(session)
    given_up = [rows.queued(session, owner) for _ in AGES]
    for job in given_up:
        rows.dispatched(session, owner, part_of=job)
    session.execute(update(Job).where(Job.id.in_(given_up)).values(state=State.FAILED))
    return given_up


@pytest.mark.parametrize(
    ("make", "find", "ordered"),
    [(lost, leases.expired, True), (late, jobs.expired, True), (left_behind, jobs.orphans, False)],
)
def test_what_is_overdue_is_found_without_what_is_left_alone(
    database: Database, make: Callable[[Session], list[UUID]], find: Callable[..., Any], ordered: bool
) -> None:
    with database.transaction() as session:
        overdue = make(session)
        found = find(session, 10)
        assert sorted(found) == sorted(overdue)
        assert found == overdue or not ordered
        assert len(find(session, 2)) == 2
        assert find(session, 10, {overdue[0], overdue[2]}) == [overdue[1]]
        assert find(session, 10, overdue) == []
