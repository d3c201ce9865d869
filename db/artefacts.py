"""Artefacts: what a team uploaded, and what its jobs made."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.orm import Session

from db.models import Artefact, ArtefactState
from db.owned import owned


def insert_ready(session: Session, rows: Iterable[Mapping[str, Any]]) -> None:
    """Store the artefacts that an attempt made; their bytes are in the store already."""
    values = [{**row, "state": ArtefactState.READY} for row in rows]
    if values:
        session.execute(insert(Artefact), values)


def ready(session: Session, team: UUID, artefacts: Iterable[UUID]) -> Sequence[Artefact]:
    """Those of these artefacts that are the team's and whose bytes are in the store."""
    query = owned(Artefact, team).where(Artefact.id.in_(list(artefacts)), Artefact.state == ArtefactState.READY)
    return session.scalars(query).all()


def made_by(session: Session, team: UUID, job: UUID) -> Sequence[Artefact]:
    """The artefacts that the attempts at a job of the team made, oldest first."""
    return session.scalars(owned(Artefact, team).where(Artefact.job_id == job).order_by(Artefact.id)).all()
