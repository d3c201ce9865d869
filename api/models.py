"""/v1/models: the versions that your team may use, in OpenAI's shape with our fields besides, and their aliases."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from api.cursors import Cursor, Limit, place_of
from api.desk import AtDesk
from control import lineage, registry
from control.accounts import Caller
from db import registry as stored
from db.models import Model
from vlyard import models as view
from vlyard.jobs.generation import ALIAS, ModelVersion
from vlyard.lineage import Lineage, ModelComparison

router = APIRouter(prefix="/v1/models", tags=["models"])

Other = Annotated[str, Query(description="The other one: `<team>/<name>:<version>`, or an alias.")]
Alias = Annotated[str, Path(pattern=f"^{ALIAS}$", description="Letters, digits, `.`, `_` and `-`, a letter first.")]


@router.get("", summary="List models, newest first")
async def list_models(desk: AtDesk, *, cursor: Cursor = None, limit: Limit = 50) -> view.Models:
    """Every version of every model that your team's jobs made, and those that are shared with every team."""
    before = place_of(cursor)

    def read(session: Session, caller: Caller) -> view.Models:
        rows = stored.page(session, caller.team, before, limit + 1)
        more = str(rows[limit - 1][1].id) if len(rows) > limit else None
        return view.Models(data=tuple(_shown(session, caller, rows[:limit])), next_cursor=more)

    return await desk.run(read)


@router.get("/{model:path}/lineage", summary="See where a model comes from, and what was done with it")
async def show_lineage(model: str, desk: AtDesk, *, cursor: Cursor = None, limit: Limit = 50) -> Lineage:
    """The data, the check and the job that made a version, and the jobs that used it, newest first."""
    before = place_of(cursor)
    return await desk.run(lambda session, caller: lineage.history(session, caller.team, model, before, limit))


@router.get("/{model:path}/comparison", summary="Put two models side by side")
async def compare(model: str, other: Other, desk: AtDesk) -> ModelComparison:
    """How two versions came to be, where they differ, and the newest evaluations that asked both the same."""

    def read(session: Session, caller: Caller) -> ModelComparison:
        pair = [registry.look(session, caller.team, name) for name in (model, other)]
        left, right = _shown(session, caller, pair)
        return ModelComparison(left=left, right=right, **lineage.side_by_side(session, caller.team, *pair)._asdict())

    return await desk.run(read)


@router.get("/{model:path}", summary="Look at a model")
async def show_model(model: str, desk: AtDesk) -> view.Model:
    """The version that is called `<team>/<name>:<version>`, how it came to be, and where its weights are.

    `<team>/<name>@<alias>` is the version for which an alias stands now.
    """
    return await desk.run(lambda session, caller: _one(session, caller, registry.look(session, caller.team, model)))


@router.put("/{model:path}/aliases/{alias}", summary="Have an alias stand for a model")
async def set_alias(model: str, alias: Alias, desk: AtDesk) -> view.Model:
    """From now on `<team>/<name>@<alias>` is this version, whatever it was before; there is no moment without one."""
    return await desk.run(lambda session, caller: _one(session, caller, registry.point(session, caller, model, alias)))


@router.delete("/{model:path}/aliases/{alias}", status_code=204, summary="Delete an alias")
async def delete_alias(model: str, alias: Alias, desk: AtDesk) -> None:
    """Forget an alias; refused where it does not stand for this version, as somebody else may have moved it."""
    await desk.run(lambda session, caller: registry.unpoint(session, caller, model, alias))


@router.delete("/{model:path}", summary="Delete a model")
async def delete_model(model: str, desk: AtDesk) -> view.Deleted:
    """Delete a version with its weights. Refused, with the reasons, while something uses it."""
    return await desk.run(lambda session, caller: view.Deleted(id=registry.delete(session, caller, model)))


def _one(session: Session, caller: Caller, found: tuple[str, Model]) -> view.Model:
    [model] = _shown(session, caller, [found])
    return model


def _shown(session: Session, caller: Caller, rows: Iterable[tuple[str, Model]]) -> list[view.Model]:
    found = list(rows)
    aliases = stored.aliases_of(session, caller.team, [row.id for _, row in found])
    return [_model(team, row, aliases.get(row.id, ())) for team, row in found]


def _model(team: str, row: Model, aliases: Iterable[str]) -> view.Model:
    return view.Model(
        id=str(ModelVersion(team, row.name, row.version)),
        created=int(row.created_at.timestamp()),
        owned_by=team,
        name=row.name,
        version=row.version,
        shared=row.shared,
        aliases=tuple(f"{team}/{row.name}@{alias}" for alias in aliases),
        artefact=row.artefact_id,
        base=row.base,
        base_artefact=row.base_artefact_id,
        job=row.job_id,
        manifest=row.manifest,
    )
