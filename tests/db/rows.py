"""Teams, workers and jobs, put into a database as a test needs them."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db import accounts, jobs, leases, queue, workers
from db.clock import from_now
from db.models import Job, JobEvent, Worker
from db.queue import Pair
from vlyard.jobs.kinds import KINDS, Device
from vlyard.jobs.state import State

LEASE = 30.0


def team(session: Session, name: str = "") -> UUID:
    return accounts.team_named(session, name or uuid4().hex)


def worker(
    session: Session,
    *,
    kinds: Iterable[str] = ("noop",),
    slots: int = 1,
    pool: str = "default",
    device: Device = Device.CPU,
    seconds_silent: float = 0,
) -> UUID:
    """A worker whose last heartbeat was so many seconds ago."""
    identity = workers.register(session, name="test", pool=pool, device=device, kinds=kinds, slots=slots, gpus=[])
    session.execute(update(Worker).where(Worker.id == identity).values(heartbeat_at=from_now(-seconds_silent)))
    return identity


def queued(session: Session, owner: UUID, *, kind: str = "noop", pool: str = "default", **columns: Any) -> UUID:
    """A job that waits for its first attempt."""
    job = Job(
        id=uuid7(), team_id=owner, kind=kind, pool=pool, device=KINDS[kind].device,
        spec={"kind": kind}, state=State.QUEUED, **{"max_attempts": 3, **columns},
    )  # fmt: skip
    job.last_event = 1
    session.add(job)
    session.flush()
    jobs.append_events(session, [(job.id, 1, {"state": job.state})])
    return job.id


def dispatched(session: Session, owner: UUID, **columns: Any) -> Pair:
    """A job whose first attempt waits for a worker."""
    [bell] = queue.dispatch(session, [[queued(session, owner, **columns)]])
    [pair] = bell.pairs
    return pair


def bundle(session: Session, owner: UUID, count: int, **columns: Any) -> list[Pair]:
    """Jobs whose first attempts wait for a worker in one message, the oldest first."""
    jobs = [queued(session, owner, **columns) for _ in range(count)]
    [bell] = queue.dispatch(session, [jobs])
    assert len(bell.pairs) == count
    return sorted(bell.pairs)


def running(session: Session, owner: UUID, holder: UUID, lease: float = LEASE, **columns: Any) -> Pair:
    """A job that a worker holds; with a negative lease, since too long."""
    pair = dispatched(session, owner, **columns)
    assert leases.claim(session, holder, [pair], lease)
    return pair


def running_bundle(session: Session, owner: UUID, holder: UUID, count: int, lease: float = LEASE) -> list[Pair]:
    """Jobs that a worker holds, all of one message."""
    pairs = bundle(session, owner, count)
    assert len(leases.claim(session, holder, pairs, lease)) == count
    return pairs


def events(session: Session, job: UUID) -> list[tuple[int, str, dict[str, Any]]]:
    """A job's events as (sequence number, type, data), in order."""
    rows = session.query(JobEvent).filter_by(job_id=job).order_by(JobEvent.seq)
    return [(row.seq, row.type, row.data) for row in rows]
