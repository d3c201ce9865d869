"""The statements that move jobs, each one set-based and backed by its own partial index.

Whoever wins the UPDATE has the job; nothing here reads first and writes later without holding the row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Integer,
    Text,
    Uuid,
    and_,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db.arrays import as_table
from db.clock import from_now
from db.jobs import append_events, moved_to
from db.models import Job, Pool, Team, Worker
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

Pair = tuple[UUID, int]  # a job and the number of an attempt at it: what a doorbell carries


@dataclass(frozen=True)
class Doorbell:
    """What is rung when jobs are dispatched: one message, for one job or for a bundle of short ones."""

    pairs: tuple[Pair, ...]
    pool: str
    kind: str
    device: Device
    bundle: UUID | None = None

    @property
    def name(self) -> str:
        """`bundle:<uuid>`, or `<job>:<attempt>` for a lone job."""
        if self.bundle is not None:
            return f"bundle:{self.bundle}"
        ((job, attempt),) = self.pairs
        return f"{job}:{attempt}"


def lock_pools(session: Session) -> Sequence[str]:
    """The pools that no other dispatcher is deciding about; they are this transaction's until it ends.

    `NO KEY` lets submissions, which refer to the pool's key, go on meanwhile.
    """
    return session.scalars(
        select(Pool.name).order_by(Pool.name).with_for_update(skip_locked=True, key_share=True)
    ).all()


def capacity(session: Session, pool: str, fresh_seconds: float) -> Sequence[tuple[Device, frozenset[str], int]]:
    """The slots of the pool's living, undrained workers, by device and the kinds that they serve."""
    query = (
        select(Worker.device, Worker.kinds, func.sum(Worker.slots))
        .where(Worker.pool == pool, _alive(fresh_seconds))
        .group_by(Worker.device, Worker.kinds)
    )
    return [(device, frozenset(kinds), int(slots)) for device, kinds, slots in session.execute(query)]


def held(session: Session, pool: str, fresh_seconds: float) -> Sequence[tuple[UUID, str, int]]:
    """How many slots of living workers each (team, kind) takes up: dispatched jobs, and running ones."""
    query = (
        select(Job.team_id, Job.kind, func.count(func.coalesce(Job.bundle, Job.id).distinct()))
        .outerjoin(Worker, Worker.id == Job.worker_id)
        .where(
            Job.pool == pool,
            or_(Job.state == State.DISPATCHED, and_(Job.state == State.RUNNING, _alive(fresh_seconds))),
        )
        .group_by(Job.team_id, Job.kind)
    )
    return [(team, kind, count) for team, kind, count in session.execute(query)]


def waiting(
    session: Session, pool: str, limits: Mapping[str, int]
) -> Sequence[tuple[UUID, UUID, str, int, datetime, str, bool]]:
    """The first jobs of every team and kind, so many of each kind: no team and no kind can hide another's.

    As (job, team, kind, priority, created, model, alone).
    """
    kind = as_table("kind", name=(Text, list(limits)), most=(Integer, list(limits.values())))
    model = func.coalesce(Job.spec["model"].astext, "")
    first = (
        select(Job.id, Job.team_id, Job.kind, Job.priority, Job.created_at, model.label("model"), Job.alone)
        .where(
            Job.team_id == Team.id,
            Job.pool == pool,
            Job.kind == kind.c.name,
            Job.state == State.QUEUED,
            Job.available_at <= func.now(),
        )
        .order_by(Job.priority.desc(), Job.id)
        .limit(kind.c.most)
        .lateral("first")
    )
    query = select(first).select_from(Team).join(kind, true()).join(first, true())
    return [tuple(row) for row in session.execute(query)]


def dispatch(session: Session, bundles: Iterable[Sequence[UUID]]) -> Sequence[Doorbell]:
    """Move queued jobs to dispatched, each with its next attempt number; the jobs of one sequence share a message."""
    rows: list[tuple[UUID, UUID | None]] = []
    for jobs in bundles:
        name = uuid7() if len(jobs) > 1 else None
        rows += [(job, name) for job in jobs]
    chosen = as_table("chosen", job=(Uuid, [job for job, _ in rows]), bundle=(Uuid, [name for _, name in rows]))
    statement = (
        moved_to(State.DISPATCHED)
        .where(Job.id == chosen.c.job)
        .values(
            attempt=Job.attempt + 1,
            dispatched_at=func.now(),
            rung_at=func.now(),
            worker_id=None,
            started_at=None,
            bundle=chosen.c.bundle,
        )
        .returning(Job.id, Job.attempt, Job.pool, Job.kind, Job.device, Job.bundle, Job.last_event)
    )
    moved = session.execute(statement).all()
    append_events(session, [(r.id, r.last_event, {"state": State.DISPATCHED, "attempt": r.attempt}) for r in moved])
    return _doorbells(moved)


def unanswered(session: Session, pools: Iterable[str], after_seconds: float, limit: int) -> Sequence[Doorbell]:
    """Dispatched jobs that nobody claimed for so long; they count as rung now."""
    overdue = (
        select(Job.id)
        .where(Job.state == State.DISPATCHED, Job.pool.in_(list(pools)), Job.rung_at < from_now(-after_seconds))
        .order_by(Job.rung_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Job)
        .where(Job.id.in_(overdue), Job.state == State.DISPATCHED)
        .values(rung_at=func.now())
        .returning(Job.id, Job.attempt, Job.pool, Job.kind, Job.device, Job.bundle)
    )
    return _doorbells(session.execute(statement).all())


def _doorbells(rows: Sequence[Any]) -> Sequence[Doorbell]:
    """One doorbell for each bundle, and one for each lone job."""
    messages: dict[UUID, list[Any]] = {}
    for row in rows:
        messages.setdefault(row.bundle or row.id, []).append(row)
    return [
        Doorbell(
            tuple((row.id, row.attempt) for row in group),
            group[0].pool,
            group[0].kind,
            group[0].device,
            group[0].bundle,
        )
        for group in messages.values()
    ]


def _alive(fresh_seconds: float) -> Any:
    return and_(Worker.ended_at.is_(None), ~Worker.draining, Worker.heartbeat_at > from_now(-fresh_seconds))
