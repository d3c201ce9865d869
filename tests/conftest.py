"""What every test may ask for: real servers, and the pictures and labels that lie beside the checkout."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from control.preparing import DEFAULT_POOL
from control.stack.ports import free_port
from control.stack.stack import Stack
from control.stack.supervisor import Supervisor
from db.accounts import ensure_pool
from db.migrating import upgrade
from db.session import Database
from tests.system import System, fresh_database

IN_CI = os.environ.get("CI") == "true"


def pytest_configure() -> None:
    """Have Ctrl-C work in every process that a test starts: a shell that runs us in the background has it ignored.

    And let no example of a property fail because the machine was busy: tests are not timed.
    """
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def own_environment() -> dict[str, str]:
    """This process's environment without our settings, so that no test touches somebody's servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VLYARD_")}


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, own_environment: dict[str, str]) -> Iterator[Stack]:
    """PostgreSQL, Valkey and SeaweedFS, started once for all tests; `servers.settings` says where they are."""
    with Stack(tmp_path_factory.mktemp("servers"), own_environment) as stack:
        yield stack


@pytest.fixture(scope="session")
def template(servers: Stack) -> str:
    """The name of a migrated, empty database, which every test's own is a copy of."""
    url = fresh_database(servers.settings["VLYARD_DATABASE_URL"])
    upgrade(url)
    database = Database(url, connections=1)
    with database.transaction() as session:
        ensure_pool(session, DEFAULT_POOL)
    database.close()
    return url.rpartition("/")[2]


@pytest.fixture
def database_url(servers: Stack, template: str) -> str:
    """A migrated database of the test's own."""
    return fresh_database(servers.settings["VLYARD_DATABASE_URL"], template)


@pytest.fixture
def environment(
    request: pytest.FixtureRequest, servers: Stack, own_environment: dict[str, str], database_url: str
) -> dict[str, str]:
    """The settings of a VLyard of the test's own, with short times; `@pytest.mark.settings(NAME=...)` changes them."""
    marked = request.node.get_closest_marker("settings")
    own = {
        **own_environment,
        **servers.settings,
        "VLYARD_DATABASE_URL": database_url,
        "VLYARD_REDIS_PREFIX": f"{database_url.rpartition('/')[2]}:",
        "VLYARD_S3_BUCKET": "tests",
        "VLYARD_API_PORT": str(free_port(())),
        "VLYARD_FLOWER_PORT": str(free_port(())),
        "VLYARD_FLOWER_PASSWORD": "flower-secret",
        "VLYARD_LEASE_SECONDS": "3",
        "VLYARD_RING_AFTER_SECONDS": "1",
        "VLYARD_RETRY_BASE_SECONDS": "0.1",
        "VLYARD_STOP_GRACE_SECONDS": "1",
    }
    return own | {f"VLYARD_{name}": value for name, value in (marked.kwargs if marked else {}).items()}


@pytest.fixture
def system(environment: dict[str, str], tmp_path: Path) -> Iterator[System]:
    """A VLyard of the test's own, of which nothing runs yet; what the test starts is ended after it."""
    logs = tmp_path / "logs"
    with Supervisor(logs) as supervisor:
        own = System(environment, supervisor, logs)
        own.store.ensure_bucket()
        yield own
        own.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real datasets beside the checkout."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        reason = f"the datasets of this test belong in {folder}, which is not there"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
