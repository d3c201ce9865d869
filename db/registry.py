"""The versions of a team's named models: making the next one, and finding those that somebody names."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, or_, select, tuple_
from sqlalchemy.orm import Session

from db.models import Model, Team
from db.owned import owned
from vlyard.errors import NotFound
from vlyard.jobs.generation import ModelVersion


class Known(NamedTuple):
    """A version, and the artefacts of it and of its base."""

    name: ModelVersion
    artefact: UUID
    base_artefact: UUID | None


class NewVersion(NamedTuple):
    """What a version has, but for its number."""

    team: UUID
    name: str
    artefact: UUID
    base: str
    base_artefact: UUID | None
    job: UUID
    manifest: Mapping[str, Any]


def add(session: Session, new: NewVersion) -> str:
    """Store the next version of a team's model; returns its full name.

    The team's row stays locked until the transaction ends, so that two that do so at once get different numbers.
    Who adds versions of several teams in one transaction does so in the order of the teams' ids.
    """
    team = session.scalar(select(Team.name).where(Team.id == new.team).with_for_update(key_share=True))
    versions = owned(Model, new.team).where(Model.name == new.name)
    number = session.scalar(versions.with_only_columns(func.coalesce(func.max(Model.version), 0) + 1))
    session.add(
        Model(
            team_id=new.team,
            name=new.name,
            version=number,
            artefact_id=new.artefact,
            base=new.base,
            base_artefact_id=new.base_artefact,
            job_id=new.job,
            manifest=dict(new.manifest),
        )
    )
    session.flush()
    return str(ModelVersion(str(team), new.name, int(number or 1)))


def known(
    session: Session, team: UUID, names: Collection[ModelVersion], artefacts: Collection[UUID] = ()
) -> Sequence[Known]:
    """Those of these versions that the team has, and the versions that these artefacts of the team are."""
    numbered = [(each.name, each.version) for each in names]
    asked = or_(tuple_(Model.name, Model.version).in_(numbered), Model.artefact_id.in_(artefacts))
    query = owned(Model, team).join(Team, Team.id == Model.team_id).where(asked)
    columns = (Team.name, Model.name, Model.version, Model.artefact_id, Model.base_artefact_id)
    found = [Known(ModelVersion(*row[:3]), *row[3:]) for row in session.execute(query.with_only_columns(*columns))]
    wanted = set(artefacts)
    return [each for each in found if each.name in names or each.artefact in wanted]


def versions_of(session: Session, team: UUID, names: Collection[str]) -> Sequence[ModelVersion]:
    """All versions that the team has of models called so, oldest first."""
    query = owned(Model, team).join(Team, Team.id == Model.team_id).where(Model.name.in_(names))
    rows = session.execute(query.with_only_columns(Team.name, Model.name, Model.version).order_by(Model.id))
    return [ModelVersion(*row) for row in rows]


def page(session: Session, team: UUID, before: UUID | None, limit: int) -> Sequence[tuple[str, Model]]:
    """The team's newest versions, older than `before`, each with the team's name."""
    query = owned(Model, team).join(Team, Team.id == Model.team_id).add_columns(Team.name)
    if before is not None:
        query = query.where(Model.id < before)
    return [(name, row) for row, name in session.execute(query.order_by(Model.id.desc()).limit(limit))]


def one(session: Session, team: UUID, text: str) -> tuple[str, Model]:
    """The version that is called so, with the team's name; raises `NotFound`, also where it is another team's."""
    name = ModelVersion.read(text)
    query = owned(Model, team).join(Team, Team.id == Model.team_id).add_columns(Team.name)
    row = None
    if name is not None:
        named = (Team.name == name.team, Model.name == name.name, Model.version == name.version)
        row = session.execute(query.where(*named)).one_or_none()
    if row is None:
        raise NotFound(f"there is no model {text}")
    return row[1], row[0]
