"""The one way to read what a team owns or may use: every such query starts here, so that none forgets whose it is."""

from typing import TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, exists, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.models import Artefact, Job, Model, ModelAlias, Webhook, WebhookDelivery
from vlyard.errors import NotFound

Owned = TypeVar("Owned", Job, Artefact, Model, ModelAlias, Webhook, WebhookDelivery)
Shared = TypeVar("Shared", Artefact, Model)

_IS_SHARED: dict[type, ColumnElement[bool] | InstrumentedAttribute[bool]] = {
    Model: Model.shared,
    Artefact: exists().where(Model.artefact_id == Artefact.id, Model.shared),
}


_CALLED: dict[type, str] = {ModelAlias: "alias", WebhookDelivery: "message"}  # where that is not the class's name


def owned(entity: type[Owned], team: UUID) -> Select[Owned]:
    """A query for the rows of this kind that the team owns, and no others."""
    return select(entity).where(entity.team_id == team)


def usable(entity: type[Shared], team: UUID) -> Select[Shared]:
    """A query for the rows of this kind that the team owns, and those that are shared with every team."""
    return select(entity).where(or_(entity.team_id == team, _IS_SHARED[entity]))


def owned_row(session: Session, entity: type[Owned], team: UUID, identity: UUID, *, lock: bool = False) -> Owned:
    """The team's row with this id, on request locked; raises `NotFound`, also where the row is another team's."""
    query = owned(entity, team).where(entity.id == identity)
    row = session.scalar(query.with_for_update(key_share=True) if lock else query)
    if row is None:
        raise NotFound(f"there is no {_CALLED.get(entity, entity.__name__.lower())} {identity}")
    return row
