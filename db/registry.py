"""The versions of named models and their aliases: making the next one, and finding those that somebody names.

What a team asks for is found among its own versions and those that are shared with every team.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, delete, func, or_, select, tuple_
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from db.models import Artefact, Model, ModelAlias, ModelName, Team
from db.owned import owned, usable
from vlyard.errors import NotFound
from vlyard.jobs.generation import ModelAlias as Alias
from vlyard.jobs.generation import ModelVersion


class Known(NamedTuple):
    """A version, and the artefacts of it, of its base and of what it learned from."""

    name: ModelVersion
    artefact: UUID
    base_artefact: UUID | None
    dataset: UUID | None


class NewVersion(NamedTuple):
    """What a version has, but for its number."""

    team: UUID
    name: str
    artefact: UUID
    base: str
    base_artefact: UUID | None
    job: UUID
    manifest: Mapping[str, Any]
    shared: bool = False


def add(session: Session, new: NewVersion) -> str:
    """Store the next version of a team's model; returns its full name. No number is given twice.

    The team's row stays locked until the transaction ends, so that two that add versions of several models at once
    do not wait for each other.
    Who adds versions of several teams in one transaction does so in the order of the teams' ids.
    """
    team = session.scalar(select(Team.name).where(Team.id == new.team).with_for_update(key_share=True))
    first = postgresql.insert(ModelName).values(team_id=new.team, name=new.name, last_version=1)
    following = first.on_conflict_do_update(
        index_elements=["team_id", "name"], set_={"last_version": ModelName.last_version + 1}
    )
    number = session.scalars(following.returning(ModelName.last_version)).one()
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
            shared=new.shared,
        )
    )
    session.flush()
    return str(ModelVersion(str(team), new.name, number))


# --- finding --------------------------------------------------------------------------------------------------


def known(
    session: Session, team: UUID, names: Collection[ModelVersion], artefacts: Collection[UUID] = ()
) -> Sequence[Known]:
    """Those of these versions that the team may use, and the versions that these artefacts are."""
    numbered = [(each.name, each.version) for each in names]
    asked = or_(tuple_(Model.name, Model.version).in_(numbered), Model.artefact_id.in_(artefacts))
    query = usable(Model, team).join(Team, Team.id == Model.team_id).where(asked)
    dataset = Model.manifest["dataset"].astext
    columns = (Team.name, Model.name, Model.version, Model.artefact_id, Model.base_artefact_id, dataset)
    rows = session.execute(query.with_only_columns(*columns))
    found = [Known(ModelVersion(*row[:3]), row[3], row[4], UUID(row[5]) if row[5] else None) for row in rows]
    wanted = set(artefacts)
    return [each for each in found if each.name in names or each.artefact in wanted]


def versions_of(session: Session, team: UUID, names: Collection[str]) -> Sequence[ModelVersion]:
    """All versions that the team may use of models called so, oldest first."""
    query = usable(Model, team).join(Team, Team.id == Model.team_id).where(Model.name.in_(names))
    rows = session.execute(query.with_only_columns(Team.name, Model.name, Model.version).order_by(Model.id))
    return [ModelVersion(*row) for row in rows]


def hold(
    session: Session,
    team: UUID,
    names: Collection[ModelVersion],
    artefacts: Collection[UUID],
    makers: Collection[UUID],
) -> None:
    """Keep versions from being deleted until the transaction ends, where the team may use them.

    They are named by their names, by their weights, or by the jobs that made them. Waits for whoever deletes one.
    """
    own = owned(Artefact, team).where(Artefact.job_id.in_(makers)).with_only_columns(Artefact.id)
    numbered = [(each.name, each.version) for each in names]
    asked = or_(
        tuple_(Model.name, Model.version).in_(numbered),
        Model.artefact_id.in_(artefacts),
        Model.job_id.in_(makers),
        Model.artefact_id.in_(own),
    )
    query = usable(Model, team).where(asked).with_only_columns(Model.id).order_by(Model.id)
    session.execute(query.with_for_update(read=True, key_share=True)).all()


def page(session: Session, team: UUID, before: UUID | None, limit: int) -> Sequence[tuple[str, Model]]:
    """The newest versions that the team may use, older than `before`, each with its team's name."""
    query = _with_team(usable(Model, team))
    if before is not None:
        query = query.where(Model.id < before)
    return [(name, row) for row, name in session.execute(query.order_by(Model.id.desc()).limit(limit))]


def one(session: Session, team: UUID, text: str) -> tuple[str, Model]:
    """The version that is called so, by its number or by an alias, with its team's name.

    Raises `NotFound`, also where it is another team's and not shared.
    """
    query = _with_team(usable(Model, team))
    if version := ModelVersion.read(text):
        query = query.where(Team.name == version.team, Model.name == version.name, Model.version == version.version)
    elif alias := Alias.read(text):
        query = query.join(ModelAlias, ModelAlias.model_id == Model.id)
        query = query.where(Team.name == alias.team, Model.name == alias.name, ModelAlias.alias == alias.alias)
    else:
        raise NotFound(f"there is no model {text}")
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"there is no model {text}")
    return row[1], row[0]


def _with_team(query: Select[Model]) -> Select[Model, str]:
    return query.join(Team, Team.id == Model.team_id).add_columns(Team.name)


# --- aliases --------------------------------------------------------------------------------------------------


def pointed_at(session: Session, team: UUID, aliases: Collection[Alias]) -> Mapping[Alias, ModelVersion]:
    """Which versions these aliases stand for now, without those that there are not or the team may not use."""
    query = (
        usable(Model, team)
        .join(Team, Team.id == Model.team_id)
        .join(ModelAlias, ModelAlias.model_id == Model.id)
        .where(ModelAlias.name.in_({each.name for each in aliases}))
        .with_only_columns(Team.name, Model.name, ModelAlias.alias, Model.version)
    )
    found = {Alias(*row[:3]): ModelVersion(row[0], row[1], row[3]) for row in session.execute(query)}
    return {alias: found[alias] for alias in aliases if alias in found}


def aliases_of(session: Session, team: UUID, models: Collection[UUID]) -> Mapping[UUID, Sequence[str]]:
    """The aliases of each of these versions that the team may use."""
    query = usable(Model, team).join(ModelAlias, ModelAlias.model_id == Model.id).where(Model.id.in_(list(models)))
    found: dict[UUID, list[str]] = {}
    for model, alias in session.execute(query.with_only_columns(Model.id, ModelAlias.alias).order_by(ModelAlias.alias)):
        found.setdefault(model, []).append(alias)
    return found


def point(session: Session, row: Model, alias: str) -> None:
    """Have an alias stand for a version, whatever it stood for before, in one statement: there is no moment between."""
    statement = postgresql.insert(ModelAlias).values(
        id=uuid7(), team_id=row.team_id, name=row.name, alias=alias, model_id=row.id
    )
    moved = {"model_id": row.id, "moved_at": func.now()}
    session.execute(statement.on_conflict_do_update(index_elements=["team_id", "name", "alias"], set_=moved))


def unpoint(session: Session, row: Model, alias: str) -> bool:
    """Forget an alias, where it stands for this version; returns whether it did."""
    own = (ModelAlias.model_id == row.id, ModelAlias.alias == alias)
    return session.execute(delete(ModelAlias).where(*own).returning(ModelAlias.id)).one_or_none() is not None
