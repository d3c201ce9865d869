"""Servers that may be broken, apart from those of all other tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from control.stack.stack import Stack
from control.stack.supervisor import Supervisor
from tests.faults.breaking import Servers
from tests.system import System, fresh_database


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the thousands of jobs come last: it takes as long as all others, and they say sooner what is broken."""
    items.sort(key=lambda item: item.path.name == "test_nine_thousand_jobs.py")


@pytest.fixture(scope="session")
def breakable_stack(tmp_path_factory: pytest.TempPathFactory, own_environment: dict[str, str]) -> Iterator[Stack]:
    """Servers that are started once for all tests that break some."""
    with Stack(tmp_path_factory.mktemp("breakable"), own_environment) as stack:
        yield stack


@pytest.fixture
def own_servers(breakable_stack: Stack) -> Iterator[Servers]:
    """Servers that this test may break; they are mended after it."""
    servers = Servers(breakable_stack)
    yield servers
    servers.mend()


@pytest.fixture
def breakable(own_servers: Servers, environment: dict[str, str], tmp_path: Path) -> Iterator[System]:
    """A VLyard on servers that the test may break."""
    url = fresh_database(own_servers.settings["VLYARD_DATABASE_URL"])
    logs = tmp_path / "logs"
    with Supervisor(logs) as supervisor:
        system = System({**environment, **own_servers.settings, "VLYARD_DATABASE_URL": url}, supervisor, logs)
        system.prepare()
        yield system
        own_servers.mend()
        system.close()
