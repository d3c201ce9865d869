"""What the API says of itself, and to clients, while a server that it needs is away."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from pydantic import SecretStr
from starlette.testclient import TestClient

from api.app import make_app
from control.settings import Settings
from control.stack.stack import Stack
from tests.api.visitor import Visitor
from tests.system import fresh_database

NO_DATABASE = SecretStr("postgresql://nobody@127.0.0.1:1/none")
KEY = {"Authorization": f"Bearer vly_{'0' * 12}_{'0' * 64}"}


@contextmanager
def running(settings: Settings, **changes: Any) -> Iterator[TestClient]:
    """An API that runs with other settings."""
    app = make_app(settings.model_copy(update=changes))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_the_api_is_alive_and_ready(client: TestClient) -> None:
    for path in ("/healthz", "/readyz"):
        reply = client.get(path)
        assert (reply.status_code, reply.json()) == (200, {"status": "ok"})


REQUESTS: list[Callable[[TestClient], Any]] = [
    lambda client: client.get("/readyz"),
    lambda client: client.get("/v1/jobs", headers=KEY),
    lambda client: client.get(f"/v1/jobs/{uuid4()}?wait=5", headers=KEY),
    lambda client: client.post("/v1/jobs", json={"spec": {"kind": "noop"}}, headers=KEY),
    lambda client: client.post(f"/v1/artefacts/{uuid4()}/complete", headers=KEY),
]


def test_without_its_database_the_api_lives_and_asks_for_patience(api_settings: Settings) -> None:
    with running(api_settings, database_url=NO_DATABASE) as client:
        assert client.get("/healthz").status_code == 200
        for request in REQUESTS:
            reply = request(client)
            assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")
            assert int(reply.headers["Retry-After"]) > 0
            assert "database" in reply.json()["detail"]


def test_without_its_store_the_api_is_not_ready_and_still_takes_jobs(visitor: Visitor, api_settings: Settings) -> None:
    artefact = visitor.announce(b"picture")
    with running(api_settings, s3_endpoint="http://127.0.0.1:1") as client:
        there = Visitor(client, visitor.team, visitor.key)
        for reply in (client.get("/readyz"), there.post(f"/v1/artefacts/{artefact['id']}/complete")):
            assert reply.status_code == 503
            assert int(reply.headers["Retry-After"]) > 0
            assert "artefact store" in reply.json()["detail"]
        assert there.submit()["state"] == "queued"


def test_a_store_that_hangs_holds_up_nobody_who_does_not_need_it(visitor: Visitor, api_settings: Settings) -> None:
    artefact = visitor.announce(b"picture")
    statuses: list[int] = []
    with (
        socket.create_server(("127.0.0.1", 0), backlog=200) as silent,  # it takes connections, and says nothing
        running(api_settings, s3_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}") as client,
    ):
        there = Visitor(client, visitor.team, visitor.key)

        def complete() -> None:
            statuses.append(there.post(f"/v1/artefacts/{artefact['id']}/complete").status_code)

        # given more requests for the store than there are threads for everything
        threads = [threading.Thread(target=complete) for _ in range(45)]
        for thread in threads:
            thread.start()
        # when, then others are served
        for _ in range(5):
            time.sleep(0.1)
            assert there.submit()["state"] == "queued"
        # and whoever asks whether it is ready hears that it is not, before long
        asked = time.monotonic()
        reply = client.get("/readyz")
        assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")
        assert time.monotonic() - asked < 10
        assert statuses == []
        # until the store hangs up, on whoever waits and on whoever tries again
        silent.settimeout(0.2)
        while any(thread.is_alive() for thread in threads):
            with suppress(TimeoutError):
                silent.accept()[0].close()
    assert statuses == [503] * 45


def test_with_a_database_of_another_version_the_api_is_not_ready_and_says_what_to_do(
    servers: Stack, api_settings: Settings
) -> None:
    empty = fresh_database(servers.settings["VLYARD_DATABASE_URL"])
    with running(api_settings, database_url=SecretStr(empty)) as client:
        reply = client.get("/readyz")
    assert reply.status_code == 503
    assert "vlyard migrate" in reply.json()["detail"]


def test_without_redis_the_api_is_ready_and_takes_jobs(visitor: Visitor, api_settings: Settings) -> None:
    with running(api_settings, redis_url=SecretStr("redis://127.0.0.1:1/0")) as client:
        assert client.get("/readyz").status_code == 200
        assert Visitor(client, visitor.team, visitor.key).submit()["state"] == "queued"
