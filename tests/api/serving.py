"""The API behind a real socket, in the test's own process: for answers that come bit by bit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from api.app import make_app
from control.settings import Settings
from control.stack.ports import free_port
from tests.system import eventually


@contextmanager
def serving(settings: Settings, heartbeat_seconds: float = 15.0) -> Iterator[str]:
    """Serves the API while the block runs; yields its URL."""
    port = free_port(())
    app = make_app(settings, heartbeat_seconds)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    eventually(lambda: server.started, what="the API")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
