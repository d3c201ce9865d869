"""A model's history, as far as it is the team's own: jobs and artefacts by their ids, jobs by the model they name."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from sqlalchemy import and_, or_
from sqlalchemy.orm import Session

from db.models import Artefact, Job, Model, Team
from db.owned import owned
from vlyard.jobs.generation import ModelVersion
from vlyard.jobs.state import State

# As the condition of ix_jobs_model and ix_jobs_adapter has them, without checks: those are found from the training.
_KINDS = ("training", "evaluation", "export", "verification")


def jobs(session: Session, team: UUID, ids: Iterable[UUID]) -> Sequence[Job]:
    """Those of these jobs that are the team's."""
    return session.scalars(owned(Job, team).where(Job.id.in_(list(ids)))).all()


def pieces(session: Session, team: UUID, ids: Iterable[UUID]) -> Sequence[Artefact]:
    """Those of these artefacts that are the team's, oldest first."""
    return session.scalars(owned(Artefact, team).where(Artefact.id.in_(list(ids))).order_by(Artefact.id)).all()


def uses(session: Session, team: UUID, model: Model, name: str, *, before: UUID | None, limit: int) -> Sequence[Job]:
    """The team's newest jobs that learned from, measured or took out a version, older than `before`.

    Of an export that was verified there are the export and its verification, and not the part that wrote the files.
    """
    artefact = str(model.artefact_id)
    field = Job.spec["model"].astext
    asked = owned(Job, team).where(
        Job.kind.in_(_KINDS),
        or_(field.in_([name, artefact]), Job.spec["adapter"].astext == artefact),
        or_(Job.part_of.is_(None), Job.kind == "verification"),
    )
    if before is not None:
        asked = asked.where(Job.id < before)
    return session.scalars(asked.order_by(Job.id.desc()).limit(limit)).all()


def evaluations(session: Session, team: UUID, model: Model, name: str, limit: int) -> Sequence[Job]:
    """The team's newest evaluations of a version that succeeded."""
    is_of_it = Job.spec["model"].astext.in_([name, str(model.artefact_id)])
    measured = and_(Job.kind == "evaluation", Job.state == State.SUCCEEDED, is_of_it)
    return session.scalars(owned(Job, team).where(measured).order_by(Job.id.desc()).limit(limit)).all()


def made_by(session: Session, team: UUID, makers: Collection[UUID]) -> Mapping[UUID, ModelVersion]:
    """The team's versions that these jobs made, by the job."""
    query = owned(Model, team).join(Team, Team.id == Model.team_id).where(Model.job_id.in_(makers))
    rows = session.execute(query.with_only_columns(Model.job_id, Team.name, Model.name, Model.version))
    return {row[0]: ModelVersion(*row[1:]) for row in rows if row[0]}
