"""Somebody's server that webhooks are sent to: a real one, on loopback, which answers as a test tells it to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

HOST = "127.0.0.1"


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the library's 5 turn callers away that come together


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """The message, if the signature is right; checked with the package of Standard Webhooks."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """What came, and what is answered to it: a status, after `before` has been called."""

    answers: list[int] = field(default_factory=list)  # one for each request; when they are used up, 204
    before: Callable[[], object] = lambda: None
    received: list[Received] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hook?team=vision"

    @contextmanager
    def open(self) -> Iterator["Receiver"]:
        """Listen, on the port of the time before where there was one."""
        server = _Server((HOST, self.port), self._handler())
        server.daemon_threads = True
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.socket.close()  # and not server_close, which waits for requests that a test never answers
            thread.join()

    def _handler(receiver) -> type[BaseHTTPRequestHandler]:  # noqa: N805  # inside the handler, `self` is another
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                receiver.before()
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the test's output clean."""

        return Handler
