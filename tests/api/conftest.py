"""One API for all tests of this folder, in the test's own process; each test comes with teams of its own."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from api.app import make_app
from control.accounts import authenticate, issue_key
from control.artefacts import ArtefactStore
from control.settings import Settings
from control.stack.stack import Stack
from db.session import Database
from tests.api.visitor import Visitor
from tests.system import fresh_database
from vlyard.teams import Role

Join = Callable[..., Visitor]


@pytest.fixture(scope="session")
def api_settings(servers: Stack, template: str) -> Settings:
    """A database and a bucket for the tests of the API, which has few connections so that none can hoard them."""
    named = {name.removeprefix("VLYARD_").lower(): value for name, value in servers.settings.items()}
    return Settings.model_validate({
        **{name: value for name, value in named.items() if name in Settings.model_fields},
        "database_url": fresh_database(servers.settings["VLYARD_DATABASE_URL"], template),
        "s3_bucket": "api",
        "api_connections": 4,
        "webhook_hosts": "127.0.0.1",
        "upload_part_bytes": 5 * 2**20,  # the least that S3 takes
    })  # fmt: skip


@pytest.fixture(scope="session")
def client(api_settings: Settings) -> Iterator[TestClient]:
    """The running API. An error that it does not foresee is an answer with status 500, as it is for clients."""
    ArtefactStore(api_settings).ensure_bucket()
    with TestClient(make_app(api_settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def database(api_settings: Settings) -> Iterator[Database]:
    """The API's database, for what a worker would do in it."""
    database = Database(api_settings.database_url.get_secret_value(), role="test")
    yield database
    database.close()


@pytest.fixture
def join(client: TestClient, database: Database) -> Join:
    """Makes a visitor, of a new team where none is named."""

    def join(role: Role = Role.ADMIN, team: str = "") -> Visitor:
        with database.transaction() as session:
            key = issue_key(session, team or uuid4().hex, role)
            return Visitor(client, authenticate(session, key).team, key)

    return join


@pytest.fixture
def visitor(join: Join) -> Visitor:
    """Somebody of a new team, who may submit every kind."""
    return join()
