"""/v1/models: the versions of your team's models, in OpenAI's shape with our fields besides."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from api.cursors import Cursor, Limit, place_of
from api.desk import AtDesk
from control.accounts import Caller
from db import registry
from db.models import Model
from vlyard import models as view
from vlyard.jobs.generation import ModelVersion

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List models, newest first")
async def list_models(desk: AtDesk, *, cursor: Cursor = None, limit: Limit = 50) -> view.Models:
    """Every version of every model that your team's jobs made."""
    before = place_of(cursor)

    def read(session: Session, caller: Caller) -> view.Models:
        rows = registry.page(session, caller.team, before, limit + 1)
        more = str(rows[limit - 1][1].id) if len(rows) > limit else None
        return view.Models(data=tuple(_model(team, row) for team, row in rows[:limit]), next_cursor=more)

    return await desk.run(read)


@router.get("/{model:path}", summary="Look at a model")
async def show_model(model: str, desk: AtDesk) -> view.Model:
    """The version that is called `<team>/<name>:<version>`, how it came to be, and where its weights are."""
    return await desk.run(lambda session, caller: _model(*registry.one(session, caller.team, model)))


def _model(team: str, row: Model) -> view.Model:
    return view.Model(
        id=str(ModelVersion(team, row.name, row.version)),
        created=int(row.created_at.timestamp()),
        owned_by=team,
        name=row.name,
        version=row.version,
        artefact=row.artefact_id,
        base=row.base,
        base_artefact=row.base_artefact_id,
        job=row.job_id,
        manifest=row.manifest,
    )
