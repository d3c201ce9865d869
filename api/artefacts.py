"""/v1/artefacts: announce an upload, complete it, look, download. Bytes go to S3 and come from there, never here."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.desk import AtDesk, IdempotencyKey
from api.views import artefact_view
from control import uploads
from control.accounts import Caller
from control.uploads import stored
from db.models import Artefact, ArtefactState
from db.owned import owned_row
from vlyard.errors import Conflict
from vlyard.jobs import view

router = APIRouter(prefix="/v1/artefacts", tags=["artefacts"])

_EXAMPLE = {"name": "street.zip", "bytes": 1048576, "sha256": "0" * 64, "media_type": "application/zip"}


@router.post("", status_code=201, summary="Announce an upload")
async def announce_artefact(
    new: Annotated[view.NewArtefact, Body(examples=[_EXAMPLE])], desk: AtDesk, idempotency_key: IdempotencyKey = None
) -> view.Artefact:
    """Get a URL to PUT the file to. The PUT must carry exactly the headers given; then complete the upload."""
    house = desk.house

    def announce(session: Session, caller: Caller) -> view.Artefact:
        row = uploads.announce(session, caller, new, idempotency_key)
        url, headers = house.store.upload_link(stored(row))
        upload = view.Upload(url=url, headers=headers, expires_in=house.settings.presign_seconds)
        return artefact_view(row, house.store, upload)

    return await desk.run(announce)


@router.post("/{artefact}/complete", summary="Complete an upload")
async def complete_artefact(artefact: UUID, desk: AtDesk) -> view.Artefact:
    """Check that S3 has exactly the announced bytes; from then on jobs can read the artefact."""
    store = desk.house.store
    row = await desk.run(lambda session, caller: owned_row(session, Artefact, caller.team, artefact))
    await run_in_threadpool(uploads.verify, store, stored(row))
    return await desk.run(lambda session, caller: artefact_view(uploads.confirm(session, caller, artefact), store))


@router.get("/{artefact}", summary="Look at an artefact")
async def show_artefact(artefact: UUID, desk: AtDesk) -> view.Artefact:
    """What is known of an artefact, and a short-lived link to its content."""
    return await desk.run(
        lambda session, caller: artefact_view(owned_row(session, Artefact, caller.team, artefact), desk.house.store)
    )


@router.get("/{artefact}/content", status_code=307, summary="Download an artefact")
async def download_artefact(artefact: UUID, desk: AtDesk) -> RedirectResponse:
    """Redirects to the content."""
    row = await desk.run(lambda session, caller: owned_row(session, Artefact, caller.team, artefact))
    if row.state is not ArtefactState.READY:
        raise Conflict("the upload of this artefact was never completed")
    return RedirectResponse(desk.house.store.download_link(stored(row)), status_code=307)
