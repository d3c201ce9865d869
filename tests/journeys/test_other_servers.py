"""The same jobs on the servers that an operator has: every PostgreSQL and every Redis or Valkey on this machine."""

import itertools
import os
from pathlib import Path

import pytest

from control.stack.folder import taken
from control.stack.postgres import POSTGRES
from control.stack.servers import Program
from control.stack.supervisor import Supervisor
from control.stack.valkey import VALKEY
from tests.system import System, eventually
from vlyard.jobs.state import State

# Each database beside the queue of the same rank: every server once, not every pair.
PAIRS = list(
    itertools.zip_longest(
        reversed(list(POSTGRES.programs(os.environ, []))), reversed(list(VALKEY.programs(os.environ, [])))
    )
)
FIRST_POSTGRES, FIRST_VALKEY = POSTGRES.find(os.environ), VALKEY.find(os.environ)


def _named(program: Program | None) -> str:
    return f"{program.path.name}-{'.'.join(map(str, program.version))}" if program else ""


@pytest.mark.parametrize(("postgres", "valkey"), PAIRS, ids=["+".join(map(_named, pair)) for pair in PAIRS])
def test_a_job_runs_is_retried_and_survives_a_killed_worker_on_these_servers(
    postgres: Program | None, valkey: Program | None, environment: dict[str, str], tmp_path: Path
) -> None:
    # given a VLyard on these servers
    with taken(tmp_path / "servers") as folder, Supervisor(tmp_path / "logs") as supervisor:
        database = POSTGRES.launch(postgres or FIRST_POSTGRES, folder)
        broker = VALKEY.launch(valkey or FIRST_VALKEY, folder)
        supervisor.start(database.process, broker.process)
        system = System({**environment, **database.settings, **broker.settings}, supervisor, tmp_path / "logs")
        system.prepare()
        system.start_dispatcher()
        system.start_worker(name="first")
        # when one job fails as transient, and another's worker is killed
        retried = system.submit(fail_transiently=1, echo="second try")
        assert system.ended(retried).state is State.SUCCEEDED
        orphan = system.submit(seconds=2)
        eventually(lambda: system.job(orphan).state is State.RUNNING)
        system.kill("first")
        system.start_worker(name="second")
        # then both succeed in their second attempts
        assert system.ended(orphan).state is State.SUCCEEDED
        assert (system.job(retried).attempt, system.job(orphan).attempt) == (2, 2)
        system.close()
