"""/v1/artefacts: announce an upload, send it, complete it, look, download. Bytes go to S3 and come from there."""

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from api.desk import AtDesk, IdempotencyKey
from api.views import artefact_view
from control import uploads
from control.accounts import Caller
from control.uploads import stored
from db.models import Artefact, ArtefactState
from db.owned import owned_row
from vlyard.errors import Conflict
from vlyard.files import ArtefactKind
from vlyard.jobs import view
from vlyard.trees import MANIFEST_TYPE, manifest_of

router = APIRouter(prefix="/v1/artefacts", tags=["artefacts"])

_EXAMPLE = {"name": "street.zip", "bytes": 1048576, "sha256": "0" * 64, "media_type": "application/zip"}
_TREE_EXAMPLE = {"name": "street", "files": [{"path": "images/1.jpg", "bytes": 1048576, "sha256": "0" * 64}]}
Limit = Annotated[int, Query(ge=1, le=1000, description="How many of the missing pieces to name.")]


@router.post("", status_code=201, summary="Announce an upload")
async def announce_artefact(
    new: Annotated[view.NewArtefact, Body(examples=[_EXAMPLE])], desk: AtDesk, idempotency_key: IdempotencyKey = None
) -> view.Artefact:
    """Get a URL to PUT the file to, with exactly the headers given; then complete the upload.

    A large file comes in parts, as `parts` says: ask for what is missing, and send that.
    """
    house = desk.house

    def announce(session: Session, caller: Caller) -> view.Artefact:
        row = uploads.announce(session, caller, new, idempotency_key)
        size = uploads.part_size(row.bytes, house.settings.upload_part_bytes)
        if size is not None:
            parts = view.Parts(part_bytes=size, count=-(-row.bytes // size))
            return artefact_view(row, house.store, parts=parts)
        url, headers = house.store.upload_link(stored(row))
        upload = view.Upload(url=url, headers=headers, expires_in=house.settings.presign_seconds)
        return artefact_view(row, house.store, upload)

    return await desk.run(announce)


@router.post(":tree", status_code=201, summary="Announce the upload of a directory")
async def announce_tree(
    new: Annotated[view.NewTree, Body(examples=[_TREE_EXAMPLE])], desk: AtDesk, idempotency_key: IdempotencyKey = None
) -> view.Artefact:
    """Say which files a directory has; then ask for what is missing, send that, and complete the upload."""
    store = desk.house.store
    row = await desk.run(lambda session, caller: uploads.announce_tree(session, caller, new, idempotency_key))
    await desk.house.storing.run(store.put_bytes, row.key, manifest_of(new.files), MANIFEST_TYPE)
    return artefact_view(row, store)


@router.get("/{artefact}/upload", summary="What an upload lacks")
async def show_upload(artefact: UUID, desk: AtDesk, limit: Limit = 100) -> view.Missing:
    """The first pieces that are not there yet, with fresh links. Nothing is listed once everything is there."""
    store, settings = desk.house.store, desk.house.settings
    upload = await desk.run(lambda session, caller: uploads.pending(session, caller, artefact))
    lack = await desk.house.storing.run(uploads.lack, store, upload, settings.upload_part_bytes)
    begun = await desk.house.storing.run(uploads.begin, store, upload, lack, limit)
    opened = upload.opened
    if begun or lack.stale:
        opened = await desk.run(lambda session, caller: uploads.note_begun(session, caller, upload, lack, begun))
        await desk.house.storing.run(uploads.drop_doubled, store, begun, opened)
    links = partial(uploads.missing, expires_in=settings.presign_seconds, limit=limit)
    return await desk.house.storing.run(links, store, upload, lack, opened)


@router.post("/{artefact}/complete", summary="Complete an upload")
async def complete_artefact(artefact: UUID, desk: AtDesk, idempotency_key: IdempotencyKey = None) -> view.Artefact:
    """Check that S3 has exactly the announced bytes; from then on jobs can read the artefact.

    What was completed before is answered as it is. Where the bytes differ, they are removed, and the right ones can be
    sent.
    """
    store = desk.house.store
    upload = await desk.run(lambda session, caller: uploads.pending(session, caller, artefact))
    await desk.house.storing.run(uploads.settle, store, upload)

    def confirm(session: Session, caller: Caller) -> view.Artefact:
        return artefact_view(uploads.confirm(session, caller, artefact, idempotency_key), store)

    return await desk.run(confirm)


@router.get("/{artefact}", summary="Look at an artefact")
async def show_artefact(artefact: UUID, desk: AtDesk) -> view.Artefact:
    """What is known of an artefact, and a short-lived link to its content."""
    return await desk.run(
        lambda session, caller: artefact_view(owned_row(session, Artefact, caller.team, artefact), desk.house.store)
    )


@router.get("/{artefact}/content", status_code=307, summary="Download an artefact")
async def download_artefact(artefact: UUID, desk: AtDesk) -> RedirectResponse:
    """Redirects to the content; that of a tree is its zip."""
    row = await desk.run(lambda session, caller: owned_row(session, Artefact, caller.team, artefact))
    if row.state is not ArtefactState.READY:
        raise Conflict("the upload of this artefact was never completed")
    if row.kind is ArtefactKind.TREE:
        return RedirectResponse(f"{router.prefix}/{artefact}/zip", status_code=307)
    return RedirectResponse(desk.house.store.download_link(stored(row)), status_code=307)
