"""VLyard's own processes on top of a stack's servers: the API, the dispatcher, the workers and Flower."""

import importlib.util
import shlex
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx
from sqlalchemy import func, select

from control.accounts import authenticate, issue_key
from control.preparing import prepare
from control.settings import Settings
from control.stack.folder import DataFolder, write_private
from control.stack.ports import LOOPBACK
from control.stack.stack import Stack
from control.stack.supervisor import Process
from db import workers
from db.session import Database
from vlyard.errors import Unauthenticated, Unavailable
from vlyard.jobs.kinds import Device
from vlyard.teams import Role

POOL = "default"
ENVIRONMENT = "environment"  # the file in the data folder that has the settings
_TEAM = "first"
_API_PORT, _FLOWER_PORT = 8080, 5555  # where they are free and nothing else was asked for
_PATIENCE = 120  # seconds; the first start of a fresh installation compiles every module
_FRESH_SECONDS = 30


@dataclass(frozen=True)
class Doors:
    """Where a person gets in, and with what."""

    api: str
    key: str
    flower: str
    flower_user: str
    flower_password: str


def start_roles(stack: Stack, port: int = 0) -> Doors:
    """Prepare the database and the bucket, and start every role; returns when all are ready.

    `port` is the API's; 0 leaves it to the data folder. Raises `Conflict` where it is taken, `Unavailable` where a
    role does not come up.
    """
    if port:
        stack.folder.insist("api", port)
    environment = _environment(stack)
    settings = _settings(environment)
    url = settings.database_url.get_secret_value()
    prepare(settings)
    doors = Doors(
        api=f"http://{LOOPBACK}:{settings.api_port}",
        key=_first_key(stack.folder, url),
        flower=f"http://{LOOPBACK}:{settings.flower_port}",
        flower_user=settings.flower_user,
        flower_password=settings.flower_password.get_secret_value(),
    )
    stack.folder.announce(doors.api)
    _keep_environment(stack.folder, {**environment, "VLYARD_URL": doors.api, "VLYARD_API_KEY": doors.key})
    stack.supervisor.start(*_processes(environment, doors, _now(url), url))
    return doors


def _keep_environment(folder: DataFolder, environment: dict[str, str]) -> None:
    """Leave the settings in a file that a shell can read, for `vlyard key`, another worker, or the client."""
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in sorted(environment.items()))
    write_private(folder.path / ENVIRONMENT, "".join(lines))


def _environment(stack: Stack) -> dict[str, str]:
    folder = stack.folder
    own = {
        "VLYARD_API_HOST": LOOPBACK,
        "VLYARD_API_PORT": str(folder.port("api", _API_PORT)),
        "VLYARD_FLOWER_HOST": LOOPBACK,
        "VLYARD_FLOWER_PORT": str(folder.port("flower", _FLOWER_PORT)),
        "VLYARD_FLOWER_USER": "vlyard",
        "VLYARD_FLOWER_PASSWORD": folder.secret("flower"),
    }
    return {**stack.settings, **own}


def _settings(environment: dict[str, str]) -> Settings:
    given = {name.removeprefix("VLYARD_").lower(): value for name, value in environment.items() if value}
    return Settings.model_validate({name: value for name, value in given.items() if name in Settings.model_fields})


def _first_key(folder: DataFolder, url: str) -> str:
    """The administrator's key that the folder keeps, or a new one where the database does not know it."""
    with closing(Database(url, connections=1)) as database, database.transaction() as session:
        try:
            authenticate(session, folder.kept_secret("api_key"))
        except Unauthenticated:
            key = issue_key(session, _TEAM, Role.ADMIN)
        else:
            return folder.kept_secret("api_key")
    return folder.keep_secret("api_key", key)


def _processes(environment: dict[str, str], doors: Doors, since: datetime, url: str) -> list[Process]:
    devices = [Device.CPU, Device.GPU] if importlib.util.find_spec("torch") else [Device.CPU]
    rows: list[tuple[str, tuple[str, ...], Callable[[], bool]]] = [
        ("api", ("api",), partial(_answers, f"{doors.api}/readyz")),
        ("dispatcher", ("dispatcher",), lambda: True),
        *(
            (f"{device}-worker", ("worker", "--pool", POOL, "--device", device), partial(_beats, url, device, since))
            for device in devices
        ),
        ("flower", ("flower",), partial(_answers, f"{doors.flower}/healthcheck")),
    ]
    program = str(Path(sys.executable).with_name("vlyard"))
    return [Process(name, (program, *words), ready, environment, patience=_PATIENCE) for name, words, ready in rows]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _now(url: str) -> datetime:
    with closing(Database(url, connections=1)) as database, database.transaction() as session:
        return session.execute(select(func.now())).scalar_one()


def _beats(url: str, device: Device, since: datetime) -> bool:
    """Whether a worker for the device has registered since then: an older row may be a killed one's."""
    try:
        with closing(Database(url, connections=1)) as database, database.transaction() as session:
            alive = workers.living(session, POOL, _FRESH_SECONDS)
            return any(worker.device == device and worker.started_at >= since for worker in alive)
    except Unavailable:
        return False
