"""/v1/teams, for administrators; and /v1/me, for everybody: whose key is this?"""

from typing import Annotated

from fastapi import APIRouter, Body
from sqlalchemy.orm import Session

from api.desk import AtDesk, IdempotencyKey
from control import administration
from control.accounts import Caller
from db import accounts
from db.models import Team
from vlyard import teams as view

router = APIRouter(prefix="/v1", tags=["teams"])


@router.get("/me", summary="Whose key is this?")
async def show_me(desk: AtDesk) -> view.Me:
    """The team of the key that the request carries, and what it may do."""
    prefix = view.prefix_of(desk.key)

    def look(session: Session, caller: Caller) -> view.Me:
        team = accounts.team(session, str(caller.team))
        return view.Me(team=_team(team), role=caller.role, prefix=prefix)

    return await desk.run(look)


@router.get("/teams", summary="List teams")
async def list_teams(desk: AtDesk) -> view.Teams:
    """All teams by name, for administrators."""

    def read(session: Session, caller: Caller) -> view.Teams:
        administration.admit(caller)
        return view.Teams(data=tuple(map(_team, accounts.teams(session))))

    return await desk.run(read)


@router.post("/teams", status_code=201, summary="Make a team")
async def make_team(
    new: Annotated[view.NewTeam, Body(examples=[{"name": "vision"}])],
    desk: AtDesk,
    idempotency_key: IdempotencyKey = None,
) -> view.Team:
    """Make a team, for administrators; 409 where there is one of that name."""
    return await desk.run(
        lambda session, caller: _team(administration.make_team(session, caller, new, idempotency_key))
    )


def _team(row: Team) -> view.Team:
    return view.Team(id=row.id, name=row.name, created_at=row.created_at)
