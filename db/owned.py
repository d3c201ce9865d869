"""The one way to read what a team owns: every such query starts here, so that none can forget whose it is."""

from typing import TypeVar
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from db.models import Artefact, Job, Model, Webhook, WebhookDelivery
from vlyard.errors import NotFound

Owned = TypeVar("Owned", Job, Artefact, Model, Webhook, WebhookDelivery)


def owned(entity: type[Owned], team: UUID) -> Select[Owned]:
    """A query for the rows of this kind that the team owns, and no others."""
    return select(entity).where(entity.team_id == team)


def owned_row(session: Session, entity: type[Owned], team: UUID, identity: UUID, *, lock: bool = False) -> Owned:
    """The team's row with this id, on request locked; raises `NotFound`, also where the row is another team's."""
    query = owned(entity, team).where(entity.id == identity)
    row = session.scalar(query.with_for_update(key_share=True) if lock else query)
    if row is None:
        raise NotFound(f"there is no {entity.__name__.lower()} {identity}")
    return row
