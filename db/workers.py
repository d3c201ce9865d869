"""Workers: their rows, which say that they are alive."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from db.clock import from_now
from db.models import Job, Pool, Worker
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State


@dataclass(frozen=True)
class AtWork:
    """A living worker, and how many jobs it runs now."""

    id: UUID
    name: str
    pool: str
    device: Device
    kinds: list[str]
    slots: int
    draining: bool
    silent_seconds: float
    running: int
    started_at: datetime
    gpus: list[str]
    self_test: dict[str, Any]


def register(
    session: Session,
    *,
    name: str,
    pool: str,
    device: Device,
    kinds: Iterable[str],
    slots: int,
    gpus: Iterable[str] = (),
    self_test: Mapping[str, Any] = MappingProxyType({}),
) -> UUID:
    """Store a new worker, and its pool where it is the first one there; returns the worker's id."""
    session.execute(insert(Pool).values(name=pool).on_conflict_do_nothing())
    worker = Worker(
        name=name,
        pool=pool,
        device=device,
        kinds=sorted(kinds),
        slots=slots,
        gpus=list(gpus),
        self_test=dict(self_test),
    )
    session.add(worker)
    session.flush()
    return worker.id


def beat(session: Session, worker: UUID) -> bool:
    """Say that the worker is alive; returns whether it is to drain."""
    beating = update(Worker).where(Worker.id == worker).values(heartbeat_at=func.now())
    return bool(session.execute(beating.returning(Worker.draining)).scalar_one_or_none())


def seat(session: Session, worker: UUID, slots: int) -> None:
    """Send the worker so many messages at a time from now on."""
    session.execute(update(Worker).where(Worker.id == worker).values(slots=slots))


def is_draining(session: Session, worker: UUID) -> bool:
    """Whether the worker is to take nothing more."""
    return bool(session.scalar(select(Worker.draining).where(Worker.id == worker)))


def drain(session: Session, worker: UUID, *, draining: bool) -> None:
    """Send the worker no more jobs; or, where it is not to drain any more, jobs again."""
    session.execute(update(Worker).where(Worker.id == worker).values(draining=draining))


def end(session: Session, worker: UUID) -> None:
    """Say that the worker has gone, in good order."""
    session.execute(update(Worker).where(Worker.id == worker).values(ended_at=func.now()))


def living(session: Session, pool: str, fresh_seconds: float) -> list[Worker]:
    """The pool's workers whose heartbeat is fresh."""
    query = select(Worker).where(
        Worker.pool == pool, Worker.ended_at.is_(None), Worker.heartbeat_at > from_now(-fresh_seconds)
    )
    return list(session.scalars(query.order_by(Worker.id)))


def at_work(session: Session, fresh_seconds: float) -> list[AtWork]:
    """All workers whose heartbeat is fresh, by pool and name."""
    silent = func.extract("epoch", func.now() - Worker.heartbeat_at)
    running = (
        select(func.count()).where(Job.worker_id == Worker.id, Job.state == State.RUNNING).correlate(Worker)
    ).scalar_subquery()
    shape = (Worker.id, Worker.name, Worker.pool, Worker.device, Worker.kinds, Worker.slots, Worker.draining)
    query = select(*shape, silent, running, Worker.started_at, Worker.gpus, Worker.self_test).where(
        Worker.ended_at.is_(None), Worker.heartbeat_at > from_now(-fresh_seconds)
    )
    return [AtWork(*row) for row in session.execute(query.order_by(Worker.pool, Worker.name))]
