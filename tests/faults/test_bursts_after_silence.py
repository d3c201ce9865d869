"""A queue that was empty when PostgreSQL last counted, and then is not: no plan from before is kept."""

import time

import pytest
from sqlalchemy import func, insert, select, text
from uuid_utils.compat import uuid7

from control.wakeup import Channel
from db.models import Job
from tests.system import System, eventually
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State

JOBS = 2_000
OTHERS = 60_000  # that come with them and are not run here: a table to search in
FEW = 60  # enough for each connection to have run each statement so often that its plan would be kept
_TABLES = ("jobs", "attempts", "job_events")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_burst_into_an_empty_analysed_queue_is_as_quick_as_one_that_was_foreseen(system: System) -> None:
    # given tables of which PostgreSQL believes that they are empty, and a VLyard that has had a little to do since
    for table in _TABLES:
        _execute(system, f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    _execute(system, "ANALYZE")
    caller = system.caller()
    system.start_dispatcher()
    system.start_worker(Device.CPU, "--slots", "2", name="worker")
    for _ in range(FEW):
        system.ended(system.submit(caller))
    # when jobs come by the thousand, and as many once it knows what is in the tables
    _execute(
        system,
        f"""INSERT INTO jobs (id, team_id, kind, pool, device, spec, state, max_attempts)
            SELECT gen_random_uuid(), '{caller.team}', 'inference', 'default', 'gpu', '{{}}', 'queued', 3
            FROM generate_series(1, {OTHERS})""",
    )
    unforeseen = _rate(system)
    _execute(system, "ANALYZE")
    foreseen = _rate(system)
    # then the first were not much slower
    assert unforeseen >= 0.5 * foreseen, f"{unforeseen:.0f} jobs/s, and then {foreseen:.0f} jobs/s"


def _rate(system: System) -> float:
    """Jobs a second, from the moment at which they are all there."""
    own = {"team_id": system.caller().team, "kind": "noop", "pool": "default", "device": Device.CPU}
    rows = [{"id": uuid7(), "spec": {"kind": "noop"}, "state": State.QUEUED, "max_attempts": 3} for _ in range(JOBS)]
    with system.database.transaction() as session:
        session.execute(insert(Job), [row | own for row in rows])
    begun = time.monotonic()
    system.bell.strike(Channel.WORK)
    eventually(lambda: not _left(system), 200, "the end of all jobs")
    return JOBS / (time.monotonic() - begun)


def _left(system: System) -> int:
    unfinished = Job.kind == "noop", Job.state.in_([State.QUEUED, State.DISPATCHED, State.RUNNING])
    with system.database.transaction() as session:
        return session.scalar(select(func.count()).where(*unfinished)) or 0


def _execute(system: System, statement: str) -> None:
    with system.database.transaction() as session:
        session.execute(text(statement))
