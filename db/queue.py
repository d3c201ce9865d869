"""The statements that move jobs, each one set-based and backed by its own partial index.

Whoever wins the UPDATE has the job; nothing here reads first and writes later without holding the row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Double,
    Integer,
    Select,
    Text,
    Uuid,
    and_,
    bindparam,
    cast,
    column,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db.clock import from_now, seconds
from db.events import told
from db.jobs import is_in, moved_to
from db.models import Job, JobDependency, Pool, Team, Worker
from db.recordset import recordset, to_rows
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

Pair = tuple[UUID, int]  # a job and the number of an attempt at it: what a doorbell carries
Capacity = tuple[Device, frozenset[str], int]  # so many slots for these kinds, of workers with this device


@dataclass(frozen=True)
class Doorbell:
    """What is rung when jobs are dispatched: one message, for one job or for a bundle of short ones."""

    pairs: tuple[Pair, ...]
    pool: str
    kind: str
    device: Device
    bundle: UUID | None = None
    alone: bool = False  # on probation

    @property
    def name(self) -> str:
        """`bundle:<uuid>`, or `<job>:<attempt>` for a lone job."""
        if self.bundle is not None:
            return f"bundle:{self.bundle}"
        ((job, attempt),) = self.pairs
        return f"{job}:{attempt}"


def lock_pools(session: Session, fresh_seconds: float) -> Mapping[str, Sequence[Capacity]]:
    """The pools that no other dispatcher is deciding about; they are this transaction's until it ends.

    Each comes with the slots of its living, undrained workers; a pool without any is not among them. `NO KEY` lets
    submissions, which refer to the pool's key, go on meanwhile. The transaction's commit does not wait for the disk: a
    crash of PostgreSQL that takes a dispatch back takes back no claim, because claims wait, and whoever comes next
    dispatches again.
    """
    found: dict[str, list[Capacity]] = {}
    for pool, device, kinds, slots in session.connection().execute(_LOCK_POOLS, {"fresh_seconds": fresh_seconds}):
        found.setdefault(pool, []).append((device, frozenset(kinds), int(slots)))
    return found


def held(session: Session, pool: str, fresh_seconds: float) -> Sequence[tuple[UUID, str, int]]:
    """How many slots of living workers each (team, kind) takes up: dispatched jobs, and running ones."""
    rows = session.connection().execute(_HELD, {"in_pool": pool, "fresh_seconds": fresh_seconds})
    return [(team, kind, count) for team, kind, count in rows]


def waiting(
    session: Session, pool: str, limits: Mapping[str, int]
) -> Sequence[tuple[UUID, UUID, str, int, datetime, str, bool]]:
    """The first jobs of every team and kind, so many of each kind: no team and no kind can hide another's.

    As (job, team, kind, priority, created, model, alone).
    """
    rows = to_rows({"kind": kind, "most": most} for kind, most in limits.items())
    return [tuple(row) for row in session.connection().execute(_WAITING, {"in_pool": pool, "rows": rows}).all()]


def dispatch(session: Session, bundles: Iterable[Sequence[UUID]]) -> Sequence[Doorbell]:
    """Move queued jobs to dispatched, each with its next attempt number; the jobs of one sequence share a message."""
    chosen: list[dict[str, UUID | None]] = []
    for jobs in bundles:
        bundle = uuid7() if len(jobs) > 1 else None
        chosen += [{"job": job, "bundle": bundle} for job in jobs]
    return _doorbells(session.connection().execute(_DISPATCH, {"rows": to_rows(chosen)}).all())


def admit(session: Session, limit: int) -> None:
    """Let jobs that backed off long enough stand in line again. The line's index holds none that do not."""
    session.connection().execute(_ADMIT, {"most": limit})


def unanswered(
    session: Session, pool: str, kinds: Iterable[str], after_seconds: float, limit: int
) -> Sequence[Doorbell]:
    """The pool's dispatched jobs of these kinds that nobody claimed for so long; they count as rung now."""
    overdue = (
        select(Job.id)
        .where(Job.state == State.DISPATCHED, Job.rung_at < from_now(-after_seconds))
        .where(Job.pool == pool, Job.kind.in_(list(kinds)))
        .order_by(Job.rung_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Job)
        .where(Job.id.in_(overdue), Job.state == State.DISPATCHED)
        .values(rung_at=func.now())
        .returning(Job.id, Job.attempt, Job.pool, Job.kind, Job.device, Job.bundle, Job.alone)
    )
    return _doorbells(session.execute(statement).all())


def ring_anew(session: Session, pairs: Sequence[Pair]) -> None:
    """Have dispatched jobs count as unanswered at once: who heard of them is not to take them."""
    rung = [Job.id.in_([job for job, _ in pairs]), tuple_(Job.id, Job.attempt).in_(pairs)]
    silent = update(Job).where(*rung, is_in(State.DISPATCHED)).values(rung_at=func.to_timestamp(0))
    session.execute(silent.execution_options(synchronize_session=False))


def now(session: Session) -> datetime:
    """The time by the database's clock: when the transaction began."""
    return session.scalars(select(func.now())).one()


@dataclass(frozen=True)
class Load:
    """How many jobs of one kind wait in a pool, and are with its workers: one team's, and all teams'."""

    pool: str
    kind: str
    queued: int
    running: int
    queued_of_all: int
    running_of_all: int


def load(session: Session, team: UUID) -> Sequence[Load]:
    """What waits and runs in all pools, by pool and kind."""
    queued, own = Job.state == State.QUEUED, func.count().filter(Job.team_id == team)
    nothing, everyone = literal(0), func.count()
    parts = (  # each has its partial index
        (own, nothing, everyone, nothing, and_(queued, Job.rung_at.is_(None))),
        (own, nothing, everyone, nothing, and_(queued, Job.rung_at.is_not(None))),
        (nothing, own, nothing, everyone, Job.state.in_([State.DISPATCHED, State.RUNNING])),
    )
    names = ("queued", "running", "queued_of_all", "running_of_all")
    each = union_all(*(
        select(Job.pool, Job.kind, *(count.label(name) for count, name in zip(counts, names, strict=True)))
        .where(which)
        .group_by(Job.pool, Job.kind)
        for *counts, which in parts
    )).subquery()  # fmt: skip
    sums = [cast(func.sum(each.c[name]), Integer) for name in names]
    query = select(each.c.pool, each.c.kind, *sums).group_by(each.c.pool, each.c.kind)
    return [Load(*row) for row in session.execute(query.order_by(each.c.pool, each.c.kind))]


def first_of_team(session: Session, job: Job, kinds: Iterable[str], limit: int) -> int:
    """How many queued jobs of these kinds of a job's own team go before it in its pool; `limit` at most."""
    line = select(literal(1)).where(
        Job.pool == job.pool,
        Job.kind.in_(list(kinds)),
        Job.team_id == job.team_id,
        Job.state == State.QUEUED,
        Job.rung_at.is_(None),
    )  # each half of this is a stretch of the index: nothing else is read
    urgent = line.where(Job.priority > job.priority).limit(limit).subquery()
    older = line.where(Job.priority == job.priority, Job.id < job.id).limit(limit).subquery()
    counted = [select(func.count()).select_from(each).scalar_subquery() for each in (urgent, older)]
    found: int = session.scalars(select(counted[0] + counted[1])).one()
    return min(found, limit)


def needs(session: Session, job: UUID, limit: int) -> tuple[Sequence[Mapping[str, Any]], int]:
    """What a blocked job waits for, what has not succeeded first, and how much of it has not."""
    lacks = Job.state != State.SUCCEEDED
    query = (
        select(
            Job.id.label("job"),
            Job.kind,
            Job.state,
            JobDependency.output,
            func.count().filter(lacks).over().label("lacking"),
        )
        .join(Job, Job.id == JobDependency.needs_id)
        .where(JobDependency.job_id == job)
        .order_by(lacks.desc(), Job.id, JobDependency.output)
        .limit(limit)
    )
    rows = session.execute(query).mappings().all()
    return [dict(row) for row in rows], rows[0]["lacking"] if rows else 0


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
            group[0].alone,
        )
        for group in messages.values()
    ]


# --- the statements, built once -------------------------------------------------------------------------------

_POOL = bindparam("in_pool", type_=Text)
_ALIVE = and_(
    Worker.ended_at.is_(None),
    ~Worker.draining,
    Worker.heartbeat_at > func.now() - seconds(bindparam("fresh_seconds", type_=Double)),
)

_LOCKED = (
    select(Pool.name, func.set_config("synchronous_commit", "off", True))
    .order_by(Pool.name)
    .with_for_update(skip_locked=True, key_share=True)
    .cte("locked")
)

_LOCK_POOLS = (
    select(_LOCKED.c.name, Worker.device, Worker.kinds, func.sum(Worker.slots))
    .join(Worker, Worker.pool == _LOCKED.c.name)
    .where(_ALIVE)
    .group_by(_LOCKED.c.name, Worker.device, Worker.kinds)
    .order_by(_LOCKED.c.name, Worker.device)
)

_HELD = (
    select(Job.team_id, Job.kind, func.count(func.coalesce(Job.bundle, Job.id).distinct()))
    .outerjoin(Worker, Worker.id == Job.worker_id)
    .where(Job.pool == _POOL, or_(Job.state == State.DISPATCHED, and_(Job.state == State.RUNNING, _ALIVE)))
    .group_by(Job.team_id, Job.kind)
)

_ADMIT = (
    update(Job)
    .where(
        Job.id.in_(
            select(Job.id)
            .where(Job.state == State.QUEUED, Job.rung_at.is_not(None), Job.available_at <= func.now())
            .order_by(Job.available_at)
            .limit(bindparam("most", type_=Integer))
            .with_for_update(skip_locked=True)
        )
    )
    .values(rung_at=None)
)


def _waiting() -> Select[Any]:
    limit = recordset([column("kind", Text), column("most", Integer)])
    model = func.coalesce(Job.spec["model"].astext, "")
    first = (
        select(Job.id, Job.team_id, Job.kind, Job.priority, Job.created_at, model.label("model"), Job.alone)
        .where(
            Job.team_id == Team.id,
            Job.pool == _POOL,
            Job.kind == limit.c.kind,
            Job.state == State.QUEUED,
            Job.rung_at.is_(None),
            Job.available_at <= func.now(),
        )
        .order_by(Job.priority.desc(), Job.id)
        .limit(limit.c.most)
        .lateral("first")
    )
    return select(first).select_from(Team).join(limit, true()).join(first, true())


def _dispatch() -> Select[Any]:
    chosen = recordset([column("job", Uuid), column("bundle", Uuid)])
    moved = (
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
        .returning(Job.id, Job.attempt, Job.pool, Job.kind, Job.device, Job.bundle, Job.alone, Job.last_event)
        .cte("moved")
    )
    events = told(moved, {"state": literal(State.DISPATCHED.value), "attempt": moved.c.attempt})
    return select(moved).add_cte(events)


_WAITING = _waiting()
_DISPATCH = _dispatch()
