"""Artefacts: what a team uploaded, and what its jobs made."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from db.models import Artefact, ArtefactState, OpenUpload
from db.owned import owned, usable


def insert_ready(session: Session, rows: Iterable[Mapping[str, Any]]) -> None:
    """Store the artefacts that an attempt made; their bytes are in the store already."""
    values = [{**row, "state": ArtefactState.READY} for row in rows]
    if values:
        session.execute(insert(Artefact), values)


def ready(session: Session, team: UUID, artefacts: Iterable[UUID]) -> Sequence[Artefact]:
    """Those of these artefacts that are the team's and whose bytes are in the store."""
    query = owned(Artefact, team).where(Artefact.id.in_(list(artefacts)), Artefact.state == ArtefactState.READY)
    return session.scalars(query).all()


def readable(session: Session, team: UUID, artefacts: Iterable[UUID]) -> Sequence[Artefact]:
    """Those of these artefacts that the team's jobs may read: its own, and the weights of shared models."""
    query = usable(Artefact, team).where(Artefact.id.in_(list(artefacts)), Artefact.state == ArtefactState.READY)
    return session.scalars(query).all()


def made_by(session: Session, team: UUID, job: UUID) -> Sequence[Artefact]:
    """The artefacts that the attempts at a job of the team made, oldest first."""
    return session.scalars(owned(Artefact, team).where(Artefact.job_id == job).order_by(Artefact.id)).all()


# --- uploads --------------------------------------------------------------------------------------------------


def resumable(session: Session, team: UUID, facts: Mapping[str, Any]) -> Artefact | None:
    """The team's pending artefact of exactly these facts, if there is one; of several, the one last heard of."""
    same = [getattr(Artefact, name) == value for name, value in facts.items()]
    query = owned(Artefact, team).where(Artefact.state == ArtefactState.PENDING, Artefact.job_id.is_(None), *same)
    return session.scalar(query.order_by(Artefact.asked_at.desc()).limit(1))  # by id, it would read all of the team's


def ensure_pending(session: Session, row: Mapping[str, Any]) -> None:
    """Store a pending artefact, or note that its uploader was heard of where it is stored already."""
    values = {**row, "state": ArtefactState.PENDING}
    statement = postgresql.insert(Artefact).values(values)
    session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"asked_at": func.now()}))


def note_asked(session: Session, artefact: UUID) -> None:
    """Store that the uploader of an artefact was heard of."""
    session.execute(update(Artefact).where(Artefact.id == artefact).values(asked_at=func.now()))


def open_uploads(session: Session, artefact: UUID) -> Sequence[OpenUpload]:
    """The objects of an artefact of which S3 collects the parts."""
    return session.scalars(select(OpenUpload).where(OpenUpload.artefact_id == artefact)).all()


def insert_uploads(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Remember what S3 collects the parts of; where that is known for a key already, that stays."""
    if rows:
        session.execute(postgresql.insert(OpenUpload).values(list(rows)).on_conflict_do_nothing())


def forget_uploads(session: Session, uploads: Mapping[str, str]) -> None:
    """Forget these uploads, each the S3 name of a key's."""
    if uploads:
        session.execute(delete(OpenUpload).where(tuple_(OpenUpload.key, OpenUpload.upload).in_(list(uploads.items()))))


def forget_uploads_of(session: Session, artefact: UUID) -> None:
    """Forget that S3 collected parts of an artefact's objects."""
    session.execute(delete(OpenUpload).where(OpenUpload.artefact_id == artefact))
