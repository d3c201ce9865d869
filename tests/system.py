"""A VLyard of one test's own: its database, its keys in Redis, its bucket; its roles as real processes."""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
import psycopg
from psycopg import sql
from pydantic import TypeAdapter

from control import lifecycle, submit, uploads
from control.accounts import Caller, authenticate, issue_key
from control.artefacts import ArtefactStore
from control.preparing import prepare
from control.settings import Settings
from control.stack.supervisor import Process, Supervisor
from control.wakeup import Bell, Channel
from db import workers
from db.models import Attempt, Job
from db.session import Database
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import TERMINAL
from vlyard.jobs.view import NewArtefact, Submission
from vlyard.teams import Role

TEMPLATE = "vlyard_template"
Answer = TypeVar("Answer")


def fresh_database(server_url: str, template: str = "template1") -> str:
    """Make a new database on a server, as a copy of the template; returns its URL."""
    name = f"t_{uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        connection.execute(statement)
    return server_url.rpartition("/")[0] + "/" + name


def eventually(look: Callable[[], Answer], seconds: float = 30, what: str = "") -> Answer:
    """The first true thing that `look` returns; fails the test when none came in time."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := look():
            return answer
        assert time.monotonic() < deadline, f"{what or look} did not happen within {seconds} s"
        time.sleep(0.05)


class System:
    """One VLyard. Nothing runs until it is started; `settings` reach the same servers from the test."""

    def __init__(self, environment: Mapping[str, str], supervisor: Supervisor, logs: Path) -> None:
        self.environment = dict(environment)
        self.logs = logs
        self._started: set[str] = set()
        given = {name.removeprefix("VLYARD_").lower(): value for name, value in environment.items()}
        self.settings = Settings.model_validate({k: v for k, v in given.items() if k in Settings.model_fields})
        self.supervisor = supervisor
        self.database = Database(self.settings.database_url.get_secret_value(), connections=4, role="test")
        self.store = ArtefactStore(self.settings)
        self.bell = Bell(self.settings.database_url.get_secret_value())
        self.bell.start()

    def close(self) -> None:
        """End what was started, side by side, and let go of the database."""
        self.supervisor.end(*self._started)
        self.bell.stop()
        self.database.close()

    def prepare(self) -> None:
        """Migrate the database, and make the bucket: for a system that is not on a copy of the template."""
        prepare(self.settings)

    # --- accounts and jobs, without the API -------------------------------------------------------------------

    def key(self, team: str = "vision", role: Role = Role.ADMIN) -> str:
        """A new API key."""
        with self.database.transaction() as session:
            return issue_key(session, team, role)

    def caller(self, team: str = "vision", role: Role = Role.ADMIN) -> Caller:
        with self.database.transaction() as session:
            return authenticate(session, issue_key(session, team, role))

    def submit(self, caller: Caller | None = None, **spec: Any) -> UUID:
        """Submit a job with this spec (a no-op where it names no kind); returns its id."""
        submission = TypeAdapter(Submission).validate_python({"spec": {"kind": "noop", **spec}})
        with self.database.transaction() as session:
            caller = caller or authenticate(session, issue_key(session, "vision", Role.ADMIN))
            job = submit.submit(session, caller, submission, None)
        self.bell.strike(Channel.WORK)
        return job.id

    def upload(self, caller: Caller, name: str, content: bytes, media_type: str = "application/octet-stream") -> UUID:
        """Store a file as an artefact of the caller's team; returns its id."""
        new = NewArtefact(
            name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), media_type=media_type
        )
        with self.database.transaction() as session, tempfile.NamedTemporaryFile() as file:
            row = uploads.announce(session, caller, new, None)
            file.write(content)
            file.flush()
            self.store.put(row.key, Path(file.name), media_type)
            return uploads.confirm(session, caller, row.id).id

    def cancel(self, caller: Caller, job: UUID) -> None:
        with self.database.transaction() as session:
            lifecycle.cancel(session, caller.team, job)

    def job(self, job: UUID) -> Job:
        """The job's row as it is now."""
        with self.database.transaction() as session:
            return session.get_one(Job, job)

    def attempts(self, job: UUID) -> list[Attempt]:
        """The rows of all attempts at a job, in order."""
        with self.database.transaction() as session:
            return list(session.query(Attempt).filter_by(job_id=job).order_by(Attempt.number))

    def ended(self, job: UUID, seconds: float = 60) -> Job:
        """The job's row once it has ended."""
        eventually(lambda: self.job(job).state in TERMINAL, seconds, f"the end of job {job}")
        return self.job(job)

    # --- roles, as processes ----------------------------------------------------------------------------------

    def start(self, name: str, *words: str, ready: Callable[[], bool] = lambda: True) -> int:
        """Start a role as `vlyard <words>`; returns its pid once it is ready."""
        program = str(Path(sys.executable).with_name("vlyard"))
        environment = {**self.environment, "PYTHONUNBUFFERED": "1"}
        self._started.add(name)
        self.supervisor.start(Process(name, (program, *words), ready, environment, patience=120))
        return self.supervisor.pid(name)

    def start_dispatcher(self, name: str = "dispatcher") -> int:
        return self.start(name, "dispatcher")

    def start_worker(self, device: Device = Device.CPU, *words: str, name: str = "", pool: str = "default") -> int:
        """Start a worker; returns its pid once its row is there."""
        name = name or f"{device}-worker"
        before = {row.id for row in self.living(pool)}
        label = f"{name}@{os.getpid()}"
        command = ("worker", "--device", device, "--pool", pool, "--name", label, *words)

        def is_registered() -> bool:
            return any(row.id not in before and row.name == label for row in self.living(pool))

        return self.start(name, *command, ready=is_registered)

    def start_api(self) -> str:
        """Start the API; returns its URL."""
        url = f"http://127.0.0.1:{self.settings.api_port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/readyz", timeout=2, trust_env=False).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        self.start("api", "api", ready=answers)
        return url

    def living(self, pool: str = "default") -> list[Any]:
        with self.database.transaction() as session:
            return workers.living(session, pool, 30)

    def kill(self, name: str) -> None:
        """SIGKILL a role's whole process group, as a machine that dies would."""
        self.supervisor.kill(name)

    def log(self, name: str) -> str:
        """Everything that a role has said."""
        return (self.logs / f"{name}.log").read_text(errors="replace")
