"""A gate before an S3 server: it passes everything on, until a test has it answer with errors or cut uploads short."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from socketserver import BaseRequestHandler, ThreadingTCPServer

HOST = "127.0.0.1"
_CUT_AT = 4_000  # bytes of a request: more than any without a body has
_REFUSAL = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Fault(Enum):
    REFUSE_UPLOADS = "answers each PUT with 503"
    CUT_UPLOADS = "ends the connection in the middle of each PUT"
    HOLD_UPLOADS = "takes each PUT, and never answers"


class Gate:
    """Speaks TCP; a fault holds for every request from the moment at which it is set."""

    def __init__(self, target: int) -> None:
        self.target = target  # the port of the server behind it
        self.fault: Fault | None = None
        self.met = 0  # requests that met a fault
        self.port = 0
        self._open: set[socket.socket] = set()

    @contextmanager
    def open(self) -> Iterator["Gate"]:
        """Listen while the block runs."""
        server = ThreadingTCPServer((HOST, 0), self._handler())
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.socket.close()
            self.set(None)
            thread.join()

    def set(self, fault: Fault | None) -> None:
        """From now on, behave so. What is open is closed, so that no connection of before goes on without it."""
        self.fault, self.met = fault, 0
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _handler(gate) -> type[BaseRequestHandler]:  # noqa: N805  # inside the handler, `self` is another
        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                client: socket.socket = self.request
                gate._open.add(client)
                try:
                    gate._serve(client)
                except OSError:
                    return  # one side went away: so does the other
                finally:
                    gate._open.discard(client)

        return Handler

    def _serve(self, client: socket.socket) -> None:
        with socket.create_connection((HOST, self.target)) as server:
            answers = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
            answers.start()
            passed = 0
            while said := client.recv(2**16):
                if self.fault is Fault.REFUSE_UPLOADS and said.startswith(b"PUT "):
                    self.met += 1
                    client.sendall(_REFUSAL)
                    return
                if self.fault is Fault.HOLD_UPLOADS and said.startswith(b"PUT "):
                    self.met += 1
                    while client.recv(2**16):  # until the client gives up, or the fault is over
                        pass
                    return
                passed = len(said) if said.startswith((b"PUT ", b"GET ", b"HEAD ")) else passed + len(said)
                if self.fault is Fault.CUT_UPLOADS and passed > _CUT_AT:
                    self.met += 1
                    server.sendall(said[: len(said) // 2])
                    return
                server.sendall(said)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while said := source.recv(2**16):
            target.sendall(said)
        target.shutdown(socket.SHUT_WR)
