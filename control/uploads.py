"""How a client's file becomes an artefact: announced, sent straight to S3, then checked."""

import hashlib
from uuid import UUID

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control.accounts import Caller
from control.artefacts import ArtefactStore
from db import idempotency
from db.models import Artefact, ArtefactState
from db.owned import owned_row
from vlyard.errors import Complaint, InvalidInput
from vlyard.files import Stored
from vlyard.jobs.view import NewArtefact


def announce(session: Session, caller: Caller, new: NewArtefact, idempotency_key: str | None) -> Artefact:
    """Store that a file is about to come; its bytes go to the store without passing through the API."""
    identity = uuid7()
    if idempotency_key is not None:
        digest = hashlib.sha256(new.model_dump_json().encode()).hexdigest()
        made = idempotency.remember(session, caller.team, idempotency_key, digest, identity)
        if made != identity:
            return owned_row(session, Artefact, caller.team, made)
    artefact = Artefact(
        id=identity,
        team_id=caller.team,
        key=f"teams/{caller.team}/uploads/{identity}/{new.name}",
        state=ArtefactState.PENDING,
        **new.model_dump(),
    )
    session.add(artefact)
    session.flush()
    session.refresh(artefact)
    return artefact


def verify(store: ArtefactStore, file: Stored) -> None:
    """Check that the bytes in the store are the announced ones; raises `InvalidInput` that says how they differ."""
    found = store.head(file.key)
    if found is None:
        raise InvalidInput(f"nothing was uploaded for {file.name}: PUT its bytes to the upload URL first")
    size, sha256 = found
    if size != file.bytes:
        fix = "upload the whole file"
        raise InvalidInput("the upload differs", [Complaint("/bytes", f"{file.bytes} announced, {size} came", fix)])
    if not sha256:  # this S3 server keeps no checksum, so the bytes are read
        digest = hashlib.sha256()
        for piece in store.read(file.key):
            digest.update(piece)
        sha256 = digest.hexdigest()
    if sha256 != file.sha256:
        what = f"{file.sha256} announced, {sha256} came"
        raise InvalidInput("the upload differs", [Complaint("/sha256", what, "upload the file that was announced")])


def confirm(session: Session, caller: Caller, artefact: UUID) -> Artefact:
    """Record that an artefact's bytes have been verified."""
    row = owned_row(session, Artefact, caller.team, artefact)
    row.state = ArtefactState.READY
    session.flush()
    return row


def stored(row: Artefact) -> Stored:
    """The artefact's file, as the store knows it."""
    return Stored(row.id, row.name, row.media_type, row.key, row.bytes, row.sha256)
