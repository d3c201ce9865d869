"""/healthz says that the process runs; /readyz, that it can do its work. Redis has no part in either."""

from fastapi import APIRouter
from pydantic import BaseModel

from api.desk import AtHouse
from vlyard.errors import Unavailable

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str = "ok"


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    return Health()


@router.get("/readyz", summary="Can it serve?")
async def readyz(house: AtHouse) -> Health:
    """Answers 503 while the database or the artefact store cannot be reached, or the schema is older than this code.

    Within five seconds, however those servers behave; and who asks while another one's answer is being found gets that.
    """
    try:
        await house.readiness.ask()
    except TimeoutError:
        raise Unavailable("the database or the artefact store takes too long to answer") from None
    return Health()
