"""Jobs that wait for the outputs of others: what they need, and the statements that let them go on or give them up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, bindparam, column, func, insert, literal, select, values
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, aliased

from db.events import told
from db.jobs import is_in, moved_to
from db.models import Job, JobDependency
from vlyard.jobs.state import State


@dataclass(frozen=True)
class Needed:
    """A job whose output another one waits for, as it is now."""

    job: UUID
    state: State
    artefacts: Mapping[str, str]  # what it made, once it has succeeded: the artefacts' ids by their names
    error: Mapping[str, Any] | None = None  # why it failed, where it did
    kind: str = ""


@dataclass(frozen=True)
class Blocked:
    """A job that waits, and is locked until the transaction ends."""

    job: UUID
    team: UUID
    kind: str
    spec: Mapping[str, Any]
    needs: Sequence[tuple[str, str, Needed]]  # (pointer, output, the job that has it)


def lock_needed(session: Session, team: UUID, jobs: Iterable[UUID]) -> Mapping[UUID, Needed]:
    """Those of these jobs that are the team's. None of them can end before this transaction has.

    So whoever ends one of them sees what was stored to wait for it.
    """
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    query = (
        select(Job.id, Job.state, Job.result, Job.error, Job.kind)
        .where(Job.team_id == team, Job.id.in_(wanted))
        .order_by(Job.id)
    )
    return {row.id: _needed(*row) for row in session.execute(query.with_for_update(read=True))}


def insert_needs(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store what jobs wait for, in one statement."""
    if rows:
        session.execute(insert(JobDependency), rows)


def lock_waiting_for(session: Session, jobs: Iterable[UUID]) -> Sequence[Blocked]:
    """The blocked jobs that need any of these, with everything that they need.

    What they need is read after they are locked: of two transactions that end the last two jobs that one waits for,
    the later sees both ends.
    """
    locked = session.connection().execute(_LOCK_WAITING, {"ended": list(jobs)}).all()
    if not locked:
        return ()
    needs: dict[UUID, list[tuple[str, str, Needed]]] = {row.id: [] for row in locked}
    other = aliased(Job)
    everything = (
        select(JobDependency, other.id, other.state, other.result, other.error, other.kind)
        .join(other, other.id == JobDependency.needs_id)
        .where(JobDependency.job_id.in_(list(needs)))
        .order_by(JobDependency.job_id, JobDependency.pointer)
    )
    for link, *needed in session.execute(everything):
        needs[link.job_id].append((link.pointer, link.output, _needed(*needed)))
    return [Blocked(row.id, row.team_id, row.kind, row.spec, needs[row.id]) for row in locked]


def release(session: Session, specs: Mapping[UUID, Mapping[str, Any]]) -> None:
    """Queue blocked jobs, each with the specification that it can run with."""
    if specs:
        given = _given("spec", specs)
        _advance(session, State.QUEUED, given, {"spec": given.c.spec, "available_at": func.now()})


def give_up(session: Session, errors: Mapping[UUID, Mapping[str, Any]]) -> None:
    """Fail blocked jobs, each with its error."""
    if errors:
        given = _given("error", errors)
        told_of = {"error": given.c.error}
        _advance(session, State.FAILED, given, {"error": given.c.error, "finished_at": func.now()}, told_of)


def _advance(
    session: Session, target: State, given: Any, values: Mapping[str, Any], told_of: Mapping[str, Any] | None = None
) -> None:
    """Move blocked jobs, and tell of it in the same statement; `told_of` goes into their events."""
    extra = {name: value.label(f"told_{name}") for name, value in (told_of or {}).items()}
    moved = (
        moved_to(target, State.BLOCKED)
        .where(Job.id == given.c.id)
        .values(**values)
        .returning(Job.id, Job.last_event, *extra.values())
        .cte("moved")
    )
    data = {"state": literal(target.value), **{name: moved.c[label.name] for name, label in extra.items()}}
    session.execute(select(func.count()).select_from(moved).add_cte(told(moved, data)))


def _needed(
    job: UUID, state: State, result: Mapping[str, Any] | None, error: Mapping[str, Any] | None, kind: str
) -> Needed:
    made = (result or {}).get("artefacts", {}) if state is State.SUCCEEDED else {}
    return Needed(job, state, made, error if state is State.FAILED else None, kind)


def _given(name: str, rows: Mapping[UUID, Mapping[str, Any]]) -> Any:
    return values(column("id", Uuid), column(name, JSONB), name="given").data(
        [(job, dict(v)) for job, v in rows.items()]
    )


# What the end of every job asks, built once.
_LOCK_WAITING = (
    select(Job.id, Job.team_id, Job.kind, Job.spec)
    .where(
        Job.id.in_(
            select(JobDependency.job_id).where(
                JobDependency.needs_id == func.any(bindparam("ended", type_=ARRAY(Uuid)))
            )
        ),
        is_in(State.BLOCKED),
    )
    .order_by(Job.id)
    .with_for_update(key_share=True)
)
