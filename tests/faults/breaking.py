"""Servers that tests break: killed, frozen and mended, as PostgreSQL, Valkey and SeaweedFS really are."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import redis

from control.stack.stack import Stack
from tests.system import eventually


class Servers:
    """The servers of a stack, by name: `postgres`, `valkey` and `seaweedfs`."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    @property
    def settings(self) -> dict[str, str]:
        """The variables by which they are reached."""
        return dict(self.stack.settings)

    def kill(self, name: str) -> None:
        """SIGKILL a server."""
        self.stack.supervisor.kill(name)

    def restart(self, name: str) -> None:
        """Start a server that was killed, and wait until it is ready."""
        self.stack.supervisor.start(self.stack.launches[name].process)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """SIGSTOP a server while the block runs: it accepts connections, as the kernel does for it, and says nothing.

        PostgreSQL's backends have sessions of their own, so that each is stopped by itself, the postmaster first.
        """
        self._signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(name, signal.SIGCONT)

    def mend(self) -> None:
        """Make everything well again for the next test."""
        for name, launch in self.stack.launches.items():
            if not launch.process.ready():
                self.kill(name)
                self.restart(name)
        with self.redis() as connection:
            connection.config_set("maxmemory", "0")

    def redis(self) -> "redis.Redis":
        """A connection to Valkey."""
        return redis.Redis.from_url(self.settings["VLYARD_REDIS_URL"])

    def await_listener(self) -> None:
        """Wait until a worker listens for messages."""
        with self.redis() as connection:
            eventually(lambda: any(each["cmd"] == "brpop" for each in connection.client_list()), what="a listener")

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = psutil.Process(self.stack.supervisor.pid(name))
        process.send_signal(number)
        for child in process.children(recursive=True):
            child.send_signal(number)
