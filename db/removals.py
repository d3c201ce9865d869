"""The end of a version: what stands in its way, whosever it is, and what it leaves in the store until that is gone."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Text, cast, delete, exists, insert, or_, select
from sqlalchemy.orm import Session

from db.models import Artefact, Job, Model, Removal, Team
from vlyard.files import ArtefactKind
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.state import State

_WAITING = (State.BLOCKED, State.QUEUED, State.DISPATCHED)


class User(NamedTuple):
    """A job that has not ended and names a version."""

    job: UUID
    team: UUID


class Dependent(NamedTuple):
    """A version that needs another one as its base."""

    name: ModelVersion
    team: UUID


class Leftover(NamedTuple):
    """What an artefact that was deleted left in the store."""

    key: str
    kind: ArtefactKind


def lock(session: Session, model: Model) -> None:
    """Wait for those who are storing jobs that name the version, and have those who come later wait."""
    session.execute(select(Model.id).where(Model.id == model.id).with_for_update()).all()


def open_jobs(session: Session, model: Model, name: str, limit: int) -> Sequence[User]:
    """Jobs that have not ended and name the version, its artefact, or the output that it is; the oldest first.

    Reads every open job's specification, which is why only who deletes asks it.
    """
    makers = {model.job_id, session.scalar(select(Artefact.job_id).where(Artefact.id == model.artefact_id))}
    texts = [f'"{name}"', str(model.artefact_id), *(f"job:{maker}/model" for maker in makers if maker)]
    names_it = or_(*(cast(Job.spec, Text).contains(each, autoescape=True) for each in texts))
    is_open = or_(Job.state.in_(_WAITING), Job.state == State.RUNNING)
    query = select(Job.id, Job.team_id).where(is_open, names_it).order_by(Job.id).limit(limit)
    return [User(*row) for row in session.execute(query)]


def dependents(session: Session, model: Model) -> Sequence[Dependent]:
    """Versions that need this one as their base."""
    query = select(Team.name, Model.name, Model.version, Model.team_id).join(Team, Team.id == Model.team_id)
    query = query.where(Model.base_artefact_id == model.artefact_id, Model.id != model.id).order_by(Model.id)
    return [Dependent(ModelVersion(*row[:3]), row[3]) for row in session.execute(query)]


def remove(session: Session, model: Model) -> None:
    """Forget a version, and its artefact unless another version is the same one; the sweeper removes its objects."""
    artefact = model.artefact_id
    session.execute(delete(Model).where(Model.id == model.id))
    needed = exists().where(or_(Model.artefact_id == artefact, Model.base_artefact_id == artefact))
    gone = delete(Artefact).where(Artefact.id == artefact, ~needed).returning(Artefact.key, Artefact.kind)
    if row := session.execute(gone).one_or_none():
        session.execute(insert(Removal).values(key=row.key, kind=row.kind))


def withdraw(session: Session, jobs: Iterable[UUID], kinds: Iterable[str]) -> None:
    """Forget the trees that jobs of these kinds made as shares of these jobs, unless a version is one of them."""
    shares = select(Job.id).where(Job.part_of.in_(list(jobs)), Job.kind.in_(list(kinds)))
    needed = exists().where(or_(Model.artefact_id == Artefact.id, Model.base_artefact_id == Artefact.id))
    unproved = delete(Artefact).where(Artefact.job_id.in_(shares), Artefact.kind == ArtefactKind.TREE, ~needed)
    gone = session.execute(unproved.returning(Artefact.key, Artefact.kind)).all()
    if gone:
        session.execute(insert(Removal), [{"key": row.key, "kind": row.kind} for row in gone])


def lock_leftovers(session: Session, limit: int) -> Sequence[Leftover]:
    """What deleted artefacts left, the oldest first, without what another process has locked."""
    query = select(Removal.key, Removal.kind).order_by(Removal.asked_at).limit(limit).with_for_update(skip_locked=True)
    return [Leftover(*row) for row in session.execute(query)]


def forget(session: Session, keys: Iterable[str]) -> None:
    """Store that nothing is left below these keys."""
    session.execute(delete(Removal).where(Removal.key.in_(list(keys))))
