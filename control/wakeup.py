"""Wake-ups between processes, over PostgreSQL's NOTIFY. They are hints: a lost one costs time and nothing else.

A bell coalesces: however often it is struck, it sends at most one NOTIFY per 10 ms, on a connection of its own,
because a NOTIFY inside the writing transactions makes their commits wait for each other.
"""

import threading
from collections.abc import Callable
from enum import StrEnum

import psycopg
import structlog
from psycopg import sql

from db.session import KEEPALIVE

log = structlog.get_logger()


class Channel(StrEnum):
    WORK = "vlyard_work"  # a job may be dispatched: one was queued, or a slot became free
    ENDED = "vlyard_ended"  # a job has ended: whoever waits for one may look
    EVENTS = "vlyard_events"  # a job went on, or its handler said something: whoever follows one may look


class Bell:
    """Sends wake-ups from this process."""

    def __init__(self, url: str, pause_seconds: float = 0.01) -> None:
        self._url = url
        self._pause = pause_seconds
        self._struck: set[Channel] = set()
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bell", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def strike(self, *channels: Channel) -> None:
        """Wake whoever listens, soon; returns at once, whether or not the database can be reached."""
        with self._lock:
            self._struck.update(channels)
        self._ready.set()

    def stop(self) -> None:
        """Send what was struck, and end."""
        self._stopped.set()
        self._ready.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        connection: psycopg.Connection | None = None
        while not self._stopped.is_set() or self._struck:
            self._ready.wait()
            self._ready.clear()
            with self._lock:
                channels, self._struck = self._struck, set()
            try:
                if connection is None or connection.closed:
                    connection = _connect(self._url)
                if channels:
                    connection.execute(
                        "SELECT pg_notify(name, '') FROM unnest(%s::text[]) AS name",
                        [[channel.value for channel in channels]],
                    )
            except psycopg.Error as error:
                log.warning("wake-up not sent", error=str(error).strip())
                connection = None
            self._stopped.wait(self._pause)
        if connection is not None:
            connection.close()


class Listener:
    """Calls back, from a thread of its own, when one of the channels is struck, and after every reconnection."""

    def __init__(self, url: str, channels: tuple[Channel, ...], heard: Callable[[], None]) -> None:
        self._url = url
        self._channels = channels
        self._heard = heard
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except psycopg.Error as error:
                log.warning("listening again", error=str(error).strip())
                self._stopped.wait(0.5)

    def _listen(self) -> None:
        with _connect(self._url) as connection:
            for channel in self._channels:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            self._heard()  # something may have happened while nobody listened
            while not self._stopped.is_set():
                if any(True for _ in connection.notifies(timeout=1.0, stop_after=1)):
                    self._heard()


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, connect_timeout=5, **KEEPALIVE)
