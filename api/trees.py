"""/v1/artefacts, where the artefact is a directory: its manifest, and all of it as one zip."""

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from api.desk import AtDesk, Desk
from control.artefacts import disposition
from control.trees import content_of, files_of, link_to
from control.uploads import stored
from control.zipping import zip_length, zip_pieces
from db.models import Artefact, ArtefactState
from db.owned import owned_row
from vlyard.errors import Conflict
from vlyard.files import ArtefactKind, Stored
from vlyard.jobs import view

router = APIRouter(prefix="/v1/artefacts", tags=["artefacts"])

_ZIP = "application/zip"
After = Annotated[int, Query(ge=0, description="Begin after so many files.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many files to list.")]
Links = Annotated[bool, Query(description="With a short-lived link to each file's content.")]


@router.get("/{artefact}/manifest", summary="List the files of a tree")
async def show_manifest(
    artefact: UUID, desk: AtDesk, after: After = 0, limit: Limit = 200, links: Links = False
) -> view.ManifestPage:
    """The files of a directory in the order of their paths, each with its length and SHA-256."""
    tree = await _tree(desk, artefact)
    store = desk.house.store

    def read() -> view.ManifestPage:
        files = files_of(store, tree)
        chosen = files[after : after + limit]
        data = [
            view.ManifestEntry(**file.model_dump(), url=link_to(store, tree, file) if links else None)
            for file in chosen
        ]
        return view.ManifestPage(data=tuple(data), next_after=after + limit if after + limit < len(files) else None)

    return await desk.house.storing.run(read)


@router.get(
    "/{artefact}/zip",
    summary="Download a tree as a zip",
    response_class=StreamingResponse,
    responses={200: {"content": {_ZIP: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def download_zip(artefact: UUID, desk: AtDesk) -> StreamingResponse:
    """All files of a directory in one zip, made while it is sent. The same directory gives the same bytes each time."""
    tree = await _tree(desk, artefact)
    files = await desk.house.storing.run(files_of, desk.house.store, tree)
    pieces = zip_pieces(files, partial(content_of, desk.house.store, tree))
    headers = {
        "Content-Length": str(zip_length(files)),
        "Content-Disposition": disposition(f"{tree.name}.zip"),
    }
    return StreamingResponse(desk.house.storing.pieces(pieces), media_type=_ZIP, headers=headers)


async def _tree(desk: Desk, artefact: UUID) -> Stored:
    row = await desk.run(lambda session, caller: owned_row(session, Artefact, caller.team, artefact))
    if row.kind is not ArtefactKind.TREE:
        raise Conflict("this artefact is a file and not a directory: download its content")
    if row.state is not ArtefactState.READY:
        raise Conflict("the upload of this artefact was never completed")
    return stored(row)
