"""Wake-ups: they arrive, they are few, and a lost connection costs a moment."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from control.wakeup import Bell, Channel, Listener
from tests.system import eventually

CLOSED = "postgresql://nobody@127.0.0.1:1/none"
Listen = Callable[..., threading.Semaphore]


@pytest.fixture
def bell(database_url: str) -> Iterator[Bell]:
    bell = Bell(database_url)
    bell.start()
    yield bell
    bell.stop()


@pytest.fixture
def listen(database_url: str) -> Iterator[Listen]:
    """Starts a listener; each of its calls releases the semaphore that is returned."""
    with ExitStack() as exits:

        def start(*channels: Channel, url: str = database_url) -> threading.Semaphore:
            heard = threading.Semaphore(0)
            listener = Listener(url, channels, heard.release)
            listener.start()
            exits.callback(listener.stop)
            return heard

        yield start


def test_a_listener_hears_once_when_it_begins_and_then_every_strike(bell: Bell, listen: Listen) -> None:
    heard = listen(Channel.WORK)
    assert heard.acquire(timeout=30)
    for _ in range(3):
        bell.strike(Channel.WORK)
        assert heard.acquire(timeout=30)


def test_a_listener_hears_its_own_channels_alone(bell: Bell, listen: Listen) -> None:
    work, ended = listen(Channel.WORK), listen(Channel.ENDED)
    assert work.acquire(timeout=30)
    assert ended.acquire(timeout=30)
    bell.strike(Channel.ENDED)
    assert ended.acquire(timeout=30)
    assert not work.acquire(blocking=False)


def test_many_strikes_become_few_wake_ups(database_url: str) -> None:
    # given a bell that is struck a thousand times while it pauses
    bell = Bell(database_url, pause_seconds=0.5)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"LISTEN {Channel.WORK}")
        bell.start()
        for _ in range(1000):
            bell.strike(Channel.WORK)
        bell.stop()
        # then what was struck is sent, in a message or two
        sent = list(connection.notifies(timeout=1))
    assert 1 <= len(sent) <= 3


def end_connections(url: str) -> int:
    """End every other connection to the database; returns how many there were."""
    query = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()"""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def test_both_ends_survive_the_loss_of_their_connections(database_url: str, bell: Bell, listen: Listen) -> None:
    heard = listen(Channel.WORK)
    assert heard.acquire(timeout=30)
    bell.strike(Channel.WORK)
    assert heard.acquire(timeout=30)
    assert end_connections(database_url) == 2
    assert heard.acquire(timeout=30)  # the listener is back, and says so, because something may have been missed

    def strikes_and_hears() -> bool:
        bell.strike(Channel.WORK)
        return heard.acquire(timeout=0.5)

    eventually(strikes_and_hears, what="the bell's coming back")


def test_striking_without_a_database_returns_at_once_and_fails_nobody(listen: Listen) -> None:
    bell = Bell(CLOSED)
    bell.start()
    heard = listen(Channel.WORK, url=CLOSED)
    bell.strike(Channel.WORK, Channel.ENDED)
    bell.stop()
    assert not heard.acquire(blocking=False)
