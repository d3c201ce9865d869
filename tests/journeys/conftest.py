"""One whole VLyard for all journeys: API, dispatcher, a CPU worker, a GPU worker and Flower, as they run in earnest."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from control.stack.ports import free_port
from control.stack.stack import Stack
from control.stack.supervisor import Supervisor
from tests.system import System, fresh_database
from vlyard import Client
from vlyard.jobs.kinds import Device
from vlyard.teams import Role


@dataclass(frozen=True)
class Running:
    """What the journeys use: its public doors, and a look behind them."""

    system: System
    url: str
    flower: str
    client: Client


@pytest.fixture(scope="session")
def running(
    servers: Stack, template: str, own_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    database = fresh_database(servers.settings["VLYARD_DATABASE_URL"], template)
    flower_port = free_port(())
    environment = {
        **own_environment,
        **servers.settings,
        "VLYARD_DATABASE_URL": database,
        "VLYARD_REDIS_PREFIX": "journeys:",
        "VLYARD_S3_BUCKET": "journeys",
        "VLYARD_API_PORT": str(free_port(())),
        "VLYARD_FLOWER_PORT": str(flower_port),
        "VLYARD_FLOWER_PASSWORD": "flower-secret",
    }
    logs = tmp_path_factory.mktemp("journeys")
    with Supervisor(logs) as supervisor:
        system = System(environment, supervisor, logs)
        system.store.ensure_bucket()
        flower = f"http://127.0.0.1:{flower_port}"
        system.start("flower", "flower", ready=lambda: _answers(f"{flower}/healthcheck"))
        url = system.start_api()
        system.start_dispatcher()
        system.start_worker(name="cpu", device=Device.CPU)
        system.start_worker(name="gpu", device=Device.GPU)
        with Client(url, system.key("vision", Role.ADMIN)) as client:
            yield Running(system, url, flower, client)
        system.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
