"""The API application, and the process that serves it."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api import artefacts, events, health, jobs, keys, models, outputs, pools, problems, teams, trees, webhooks, why
from api.desk import House
from api.intake import Intake
from api.request_id import RequestIds
from api.streams import HEARTBEAT_SECONDS
from api.waiting import Waiters
from control.artefacts import ArtefactStore
from control.settings import Settings
from control.wakeup import Bell, Channel
from db.session import Database

# Files go to S3 and not through here: this is room for a specification, and for the pictures that some will carry.
_LARGEST_BODY = 32 * 2**20  # bytes


def make_app(settings: Settings, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> FastAPI:
    """The application; it opens its connections when it is started. Streams say every so often that they live."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        url = settings.database_url.get_secret_value()
        database = Database(url, connections=settings.api_connections, role="vlyard-api")
        bell = Bell(url)
        intake = Intake(database, lambda: bell.strike(Channel.WORK))
        house = House(settings, database, ArtefactStore(settings), bell, Waiters(database, url), intake)
        house.bell.start()
        house.intake.start()
        await house.waiters.start()
        app.state.house = house
        try:
            yield
        finally:
            await house.waiters.stop()
            house.intake.stop()
            house.bell.stop()
            database.close()

    app = FastAPI(title="VLyard", version=version("vlyard"), lifespan=life, max_body_size=_LARGEST_BODY)
    app.state.heartbeat_seconds = heartbeat_seconds
    app.add_middleware(RequestIds)
    problems.install(app)
    for each in (jobs, events, outputs, why, artefacts, trees, models, webhooks, pools, teams, keys, health):
        app.include_router(each.router)
    return app


def serve(settings: Settings) -> None:
    """Serve the API until the process is told to stop."""
    app = make_app(settings)
    config = uvicorn.Config(
        app, host=settings.api_host, port=settings.api_port, log_level="warning", timeout_graceful_shutdown=5
    )
    gc.collect()
    gc.freeze()  # what is loaded by now stays; looking through it again and again took a third of the CPU of a batch
    _Server(config).run()


class _Server(uvicorn.Server):
    """One that, told to stop, first sends on those who wait: they get their answers, and hold up nobody."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        house: House | None = getattr(self.config.app.state, "house", None)  # type: ignore[union-attr]
        if house is not None:
            house.waiters.dismiss()
        super().handle_exit(sig, frame)
