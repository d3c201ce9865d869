"""Where benchmarks run: one set of servers, and on it as many VLyards as they ask for, each with what is its own."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import httpx
import psycopg
import redis
from psycopg import sql

from control.accounts import issue_key
from control.preparing import DEFAULT_POOL, prepare
from control.settings import Settings
from control.stack.ports import LOOPBACK, free_port
from control.stack.stack import Stack
from control.stack.supervisor import Process
from db import accounts, workers
from db.session import Database
from vlyard.teams import Role

IDLE_POOL = "idle"  # no worker serves it
SLOTS = 4  # of a worker for short jobs: some compute while others wait for the disk
_FRESH_SECONDS = 30


@dataclass(frozen=True)
class Yard:
    """A VLyard of one benchmark's own: its database, its keys in Redis, its bucket."""

    settings: Settings
    api: str
    team: UUID
    key: str  # of an administrator of that team

    @property
    def database_url(self) -> str:
        return self.settings.database_url.get_secret_value()

    @property
    def redis_url(self) -> str:
        return self.settings.redis_url.get_secret_value()


class Stage:
    """The servers of one run."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    @contextmanager
    def yard(self, *roles: str, **more: str) -> Iterator[Yard]:
        """A new, empty VLyard with these settings, of which these roles run while the block does.

        They are `api`, `dispatcher`, `worker` (for short jobs) and `asker` (with models).
        """
        name = f"bench_{uuid4().hex[:12]}"
        port = free_port(())
        environment = {
            **self._stack.settings,
            "VLYARD_DATABASE_URL": self._new_database(name),
            "VLYARD_REDIS_PREFIX": f"{name}:",
            "VLYARD_S3_BUCKET": name.replace("_", "-"),
            "VLYARD_API_PORT": str(port),
            **more,
        }
        given = {key.removeprefix("VLYARD_").lower(): value for key, value in environment.items()}
        settings = Settings.model_validate({key: value for key, value in given.items() if key in Settings.model_fields})
        prepare(settings)
        with closing(Database(settings.database_url.get_secret_value(), connections=1)) as database:
            with database.transaction() as session:
                key = issue_key(session, "bench", Role.ADMIN)
                team = accounts.team_named(session, "bench")
                accounts.ensure_pool(session, IDLE_POOL)
            yard = Yard(settings, f"http://{LOOPBACK}:{port}", team, key)
            with self.running(*(_role(name, role, yard, environment, database) for role in roles)):
                yield yard

    @contextmanager
    def running(self, *processes: Process) -> Iterator[None]:
        """These processes, ready, while the block runs."""
        self._stack.supervisor.start(*processes)
        try:
            yield
        finally:
            self._stack.supervisor.end(*(process.name for process in processes))

    @contextmanager
    def celery(self) -> Iterator[redis.Redis]:
        """A Celery worker of `bench.celery_alone` while the block runs, and its broker."""
        url = os.environ["BENCH_REDIS_URL"] = self._stack.settings["VLYARD_REDIS_URL"]
        from bench.celery_alone import app  # here, because it reads where its broker is

        command = (sys.executable, "-m", "celery", "-A", "bench.celery_alone", "worker", "--loglevel=WARNING")
        with self.running(Process("celery", command, lambda: bool(app.control.ping(timeout=1)))):
            yield redis.Redis.from_url(url, decode_responses=True)

    def _new_database(self, name: str) -> str:
        server = self._stack.settings["VLYARD_DATABASE_URL"]
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return server.rpartition("/")[0] + "/" + name


@contextmanager
def staged() -> Iterator[Stage]:
    """A stage with servers of its own, which are gone afterwards."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLYARD_")}
    with TemporaryDirectory() as folder, Stack(Path(folder), environment) as stack:
        yield Stage(stack)


def answers(url: str) -> bool:
    """Whether there is an answer at this URL, whatever it is."""
    try:
        httpx.get(url, timeout=2, trust_env=False)
    except httpx.TransportError:
        return False
    return True


_WORDS: Mapping[str, Sequence[str]] = {
    "api": ("api",),
    "dispatcher": ("dispatcher",),
    "worker": ("worker", "--device", "cpu", "--slots", str(SLOTS)),
    "asker": ("worker", "--device", "gpu", "--slots", "2"),
}


def _role(name: str, role: str, yard: Yard, environment: Mapping[str, str], database: Database) -> Process:
    def works() -> bool:
        with database.transaction() as session:
            return bool(workers.living(session, DEFAULT_POOL, _FRESH_SECONDS))

    ready: Mapping[str, Callable[[], bool]] = {
        "api": lambda: answers(f"{yard.api}/readyz"),
        "worker": works,
        "asker": works,
    }
    program = str(Path(sys.executable).with_name("vlyard"))
    return Process(f"{name}-{role}", (program, *_WORDS[role]), ready.get(role, lambda: True), environment, patience=120)
