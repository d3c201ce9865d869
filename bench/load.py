"""An HTTP client that is no bottleneck: few keep-alive connections, each sending as soon as it was answered.

It knows as much of HTTP/1.1 as an answer with a Content-Length needs. Beside it, an HTTP library would take as much
time for a request as the server does, and the figure would say what the library can.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import cast
from urllib.parse import urlsplit

import uvloop

CONNECTIONS = 16


def request(url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A POST as it travels."""
    parts = urlsplit(url)
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join((*lines, "", "")).encode() + body


def answers_a_second(url: str, make: Callable[[], bytes], count: int) -> float:
    """Send so many requests over all connections; returns how many were answered in a second, all of them with 2xx."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_load(url, make, count))


async def _load(url: str, make: Callable[[], bytes], count: int) -> float:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    loop = asyncio.get_running_loop()
    left = iter(range(count))
    connections = []
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(lambda: _Connection(left, make), host, port)
        connections.append(connection)
    began = time.perf_counter()
    for connection in connections:
        connection.send()
    await asyncio.gather(*(connection.over for connection in connections))
    return count / (time.perf_counter() - began)


class _Connection(asyncio.Protocol):
    def __init__(self, left: Iterator[int], make: Callable[[], bytes]) -> None:
        self._left = left
        self._make = make
        self._received = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        if next(self._left, None) is None:
            self.over.set_result(None)
            self._transport.close()
        else:
            self._transport.write(self._make())

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < _content_length(head):
            return
        if not head.startswith(b"HTTP/1.1 2"):
            self._fail(f"the server answered {head[:40]!r} {body[:400]!r}")
            return
        self._received = b""
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the server closed the connection: {exc}")

    def _fail(self, why: str) -> None:
        if not self.over.done():
            self.over.set_exception(ConnectionError(why))


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    assert found, "an answer without a Content-Length"
    return int(rest.partition(b"\r\n")[0])
