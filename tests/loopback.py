"""A server of a test's own, on a free port of loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def _say_nothing(*_: object) -> None:
    """In the place of a line on standard error for every request: tests look at what came."""


@contextmanager
def listening(answers: type[BaseHTTPRequestHandler], **known: object) -> Iterator[str]:
    """A server that answers so for as long as the block lasts, with attributes that each answer knows; its URL."""
    own = type(answers.__name__, (answers,), {"log_message": _say_nothing, **known})
    server = ThreadingHTTPServer(("127.0.0.1", 0), own)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
