"""/healthz says that the process runs; /readyz, that it can do its work. Redis has no part in either."""

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api.desk import AtHouse, House
from db.migrating import is_served
from vlyard.errors import Unavailable

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str = "ok"


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    return Health()


@router.get("/readyz", summary="Can it serve?")
async def readyz(house: AtHouse) -> Health:
    """Answers 503 while the database or the artefact store cannot be reached, or the schema is older than this code."""
    return await run_in_threadpool(_check, house)


def _check(house: House) -> Health:
    with house.database.transaction() as session:
        if not is_served(session.connection()):
            raise Unavailable("the database's schema is of an older version: run `vlyard migrate`")
    house.store.reachable()
    return Health()
