"""What the next attempt at a job goes on from: one fenced row for each checkpoint, and how earlier attempts ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, func, literal, select, tuple_
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from db.models import Attempt, Checkpoint, Job
from db.queue import Pair
from vlyard.jobs.state import State


@dataclass(frozen=True)
class Kept:
    """A checkpoint as it lies in the store: a tree, by its manifest's key, length of all files, and SHA-256."""

    step: int
    key: str
    bytes: int
    sha256: str


def record(session: Session, worker: UUID, pair: Pair, kept: Kept) -> bool:
    """Name a checkpoint that is in the store; false where the attempt is not the worker's any more.

    One statement, which waits for whoever is ending the attempt just now and then writes nothing. A step that an
    earlier attempt had reached as well is this attempt's from now on.
    """
    facts = {"attempt": pair[1], "key": kept.key, "bytes": kept.bytes, "sha256": kept.sha256}
    mine = (
        select(Job.id, literal(kept.step), *map(literal, facts.values()))
        .where(Job.id == pair[0], Job.attempt == pair[1], Job.worker_id == worker, Job.state == State.RUNNING)
        .with_for_update(read=True)
    )
    statement = (
        postgresql.insert(Checkpoint)
        .from_select(["job_id", "step", *facts], mine, include_defaults=False)
        .on_conflict_do_update(index_elements=["job_id", "step"], set_={**facts, "created_at": func.now()})
        .returning(Checkpoint.step)
    )
    return session.scalar(statement) is not None


def drop_older(session: Session, job: UUID, latest: int) -> Sequence[str]:
    """Forget a job's checkpoints but for so many of the latest; returns the keys of those that were forgotten."""
    staying = select(Checkpoint.step).where(Checkpoint.job_id == job).order_by(Checkpoint.step.desc()).limit(latest)
    dropped = delete(Checkpoint).where(Checkpoint.job_id == job, Checkpoint.step.not_in(staying))
    return session.scalars(dropped.returning(Checkpoint.key)).all()


def newest(session: Session, jobs: Sequence[UUID]) -> Mapping[UUID, Kept]:
    """The checkpoint of the most steps of each job that has one."""
    rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id.in_(jobs)).order_by(Checkpoint.step))
    return {row.job_id: Kept(row.step, row.key, row.bytes, row.sha256) for row in rows}  # the last of each stands


def left_by(session: Session, pairs: Sequence[Pair]) -> set[Pair]:
    """Those of these attempts that made a checkpoint which is still one: their jobs are further than before them."""
    made = select(Checkpoint.job_id, Checkpoint.attempt).where(tuple_(Checkpoint.job_id, Checkpoint.attempt).in_(pairs))
    return {(row.job_id, row.attempt) for row in session.execute(made)}


def ended_with(session: Session, jobs: Sequence[UUID], code: str) -> Mapping[UUID, int]:
    """How many attempts at each job ended with an error of that code; without the jobs that have none."""
    query = (
        select(Attempt.job_id, func.count())
        .where(Attempt.job_id.in_(jobs), Attempt.error["code"].astext == code)
        .group_by(Attempt.job_id)
    )
    return {row.job_id: int(row[1]) for row in session.execute(query)}
