"""/v1/teams/{team}/keys and /v1/keys: API keys, for administrators."""

from typing import Annotated

from fastapi import APIRouter, Body, Path
from sqlalchemy.orm import Session

from api.desk import AtDesk, IdempotencyKey
from control import administration
from control.accounts import Caller
from db import accounts
from db.models import ApiKey, Team
from vlyard import teams as view

router = APIRouter(prefix="/v1", tags=["teams"])

Storable = Annotated[str, Path(pattern=r"^[^\x00]*$")]  # as a text in PostgreSQL


@router.get("/teams/{team}/keys", summary="List a team's keys")
async def list_keys(team: Storable, desk: AtDesk) -> view.Keys:
    """The keys of the team of that name or id, oldest first; never the keys themselves, which are not stored."""

    def read(session: Session, caller: Caller) -> view.Keys:
        administration.admit(caller)
        owner = accounts.team(session, team)
        return view.Keys(data=tuple(_key(owner, row) for row in accounts.keys(session, owner.id)))

    return await desk.run(read)


@router.post("/teams/{team}/keys", status_code=201, summary="Make a key")
async def make_key(
    team: Storable,
    desk: AtDesk,
    new: Annotated[view.NewKey, Body(examples=[{"role": "member"}])] = view.NewKey(),
    idempotency_key: IdempotencyKey = None,
) -> view.Key:
    """Make a key for the team of that name or id. The answer holds it, and is the only one that does.

    A retry with the same `Idempotency-Key` gives that key another secret: the one of the answer before opens nothing.
    """

    def make(session: Session, caller: Caller) -> view.Key:
        return _key(*administration.make_key(session, caller, team, new, idempotency_key))

    return await desk.run(make)


@router.delete("/keys/{prefix}", status_code=204, summary="Take a key back")
async def revoke_key(prefix: Storable, desk: AtDesk) -> None:
    """Take the key of that prefix back, at once and for good; 409 for the one that the request carries."""
    own = desk.key
    await desk.run(lambda session, caller: administration.revoke_key(session, caller, prefix, own))


def _key(team: Team, row: ApiKey, key: str | None = None) -> view.Key:
    return view.Key(
        prefix=row.prefix,
        team=team.name,
        role=row.role,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        key=key,
    )
