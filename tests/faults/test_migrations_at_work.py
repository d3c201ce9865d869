"""The newest migration taken back and done again under a VLyard that works: nothing stops, nothing is lost."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from db import migrating
from db.models import Outcome
from tests.system import System, eventually
from vlyard.jobs.state import State

MORE = 25  # jobs that have to succeed on each schema


@contextmanager
def _submitted(system: System) -> Iterator[list[UUID]]:
    """Submit one job after the other while the block runs; what was submitted so far."""
    caller = system.caller()
    jobs: list[UUID] = []
    over = threading.Event()

    def submit() -> None:
        while not over.is_set():
            jobs.append(system.submit(caller, echo=str(len(jobs)), seconds=0.01))
            time.sleep(0.02)

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        yield jobs
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_jobs_go_on_while_the_newest_migration_is_taken_back_and_done_again(system: System) -> None:
    # given a VLyard at work
    url = system.settings.database_url.get_secret_value()
    system.start_dispatcher()
    system.start_worker(name="worker")
    with _submitted(system) as jobs:
        _await_more(system, jobs)
        # when its schema becomes the one before, as under code that is older by one migration, then the newest again
        for move, revision in ((migrating.downgrade, "-1"), (migrating.upgrade, "head")):
            move(url, revision)
            # then jobs that were submitted since then succeed, and nobody was started again
            _await_more(system, jobs)
    for number, job in enumerate(jobs):
        row = system.ended(job)
        assert row.result is not None
        assert (row.state, row.result["echo"]) == (State.SUCCEEDED, str(number))
        assert [attempt.outcome for attempt in system.attempts(job)].count(Outcome.SUCCEEDED) == 1
    assert migrating.differences(url) == []


def _await_more(system: System, jobs: list[UUID]) -> None:
    wanted = len(jobs) + MORE
    eventually(lambda: len(jobs) > wanted, 60, "more jobs")
    assert system.ended(jobs[wanted]).state is State.SUCCEEDED
