"""What is overdue is closed, and a job at which that fails holds up nobody."""

import threading
import time
from uuid import UUID

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError
from uuid_utils.compat import uuid7

from control.accounts import Caller
from control.dispatcher import Dispatcher
from control.queue import Doorbells
from control.reaping import Reaper
from control.rules import rules_from
from db import artefacts, leases
from db.clock import from_now
from db.models import Job, JobDependency
from tests.control.test_dependencies import accept, end, entry, states, stored
from tests.control.test_sharding import claim, predict, shares
from tests.db import rows
from tests.system import System, eventually
from vlyard.jobs.state import State

# A job that PostgreSQL does not let anybody move: a stand-in for whatever may be wrong with one.
POISON = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'poison'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE OF state ON jobs FOR EACH ROW WHEN (OLD.id = '{}') EXECUTE FUNCTION refuse();
"""


@pytest.fixture
def caller(vlyard: System) -> Caller:
    return vlyard.caller()


@pytest.fixture
def reaper(vlyard: System) -> Reaper:
    return Reaper(vlyard.database, rules_from(vlyard.settings))


def poison(vlyard: System, job: UUID) -> None:
    with vlyard.database.transaction() as session:
        session.execute(text(POISON.format(job)))


def test_a_job_that_cannot_be_closed_holds_up_no_other_and_is_looked_at_again_after_a_while(
    vlyard: System, reaper: Reaper
) -> None:
    # given lost attempts and expired jobs, one of each of which nobody can move
    with vlyard.database.transaction() as session:
        owner, worker = rows.team(session), rows.worker(session)
        lost = [rows.running(session, owner, worker, lease=-number)[0] for number in (9, 5, 4)]
        late = [rows.queued(session, owner, expires_at=from_now(-number)) for number in (9, 5, 4)]
    poison(vlyard, lost[0])
    # when
    assert reaper.reap() == {"attempts": 2, "expired": 3, "orphans": 0}
    # then the others are closed, and it is not tried with every tick
    assert [vlyard.job(job).state for job in lost] == [State.RUNNING, State.QUEUED, State.QUEUED]
    assert {vlyard.job(job).state for job in late} == {State.FAILED}
    with vlyard.database.transaction() as session:
        assert leases.expired(session, 10) == [lost[0]]
        session.execute(text("DROP TRIGGER refuse ON jobs"))
    assert reaper.reap()["attempts"] == 0
    # and one that looks for the first time closes it, now that it can be
    assert Reaper(vlyard.database, rules_from(vlyard.settings)).reap()["attempts"] == 1


@pytest.mark.settings(LEASE_SECONDS="600")
def test_a_dispatcher_lives_on_after_an_error_that_nobody_foresaw(vlyard: System) -> None:
    # given a job that cannot be dispatched, and a dispatcher that has met it
    with vlyard.database.transaction() as session:
        rows.worker(session)
        bad = rows.queued(session, rows.team(session))
    poison(vlyard, bad)
    one = Dispatcher(vlyard.database, Doorbells(vlyard.settings), vlyard.settings, rules_from(vlyard.settings))
    with pytest.raises(DBAPIError, match="poison"):
        one.tick()
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()
    # when that has been mended, then it goes on
    with vlyard.database.transaction() as session:
        session.execute(text("DROP TRIGGER refuse ON jobs"))
    eventually(lambda: vlyard.job(bad).state is State.DISPATCHED)
    one.stop()
    thread.join()


def test_what_a_job_waited_for_ends_though_that_job_cannot_go_on(vlyard: System, caller: Caller) -> None:
    # given a job that waits, and that asks for a field that its kind does not have any more
    first, second = accept(vlyard, caller, entry("make"), entry("use", "ref:make/dataset"))
    with vlyard.database.transaction() as session:
        session.execute(update(JobDependency).where(JobDependency.job_id == second).values(pointer="/no/such"))
    # when
    end(vlyard, first, outputs={"dataset": uuid7()})
    # then
    assert states(vlyard, [first, second]) == ["succeeded", "failed"]
    assert (vlyard.job(second).error or {})["code"] == "internal"


def test_a_share_that_somebody_held_when_its_job_was_given_up_is_stopped_by_the_next_look(
    vlyard: System, reaper: Reaper, caller: Caller
) -> None:
    # given a share that is with a worker
    dataset = uuid7()
    with vlyard.database.transaction() as session:
        artefacts.insert_ready(session, [{"team_id": caller.team, **stored("pictures.zip", dataset)}])
    job = predict(vlyard, caller, dataset, shards=2)
    first, second = (share.id for share in shares(vlyard, job))
    claim(vlyard, first)
    # when its row is locked while the job is cancelled
    with vlyard.database.transaction() as session:
        session.execute(select(Job.id).where(Job.id == first).with_for_update())
        vlyard.cancel(caller, job)
    assert vlyard.job(second).state is State.CANCELLED
    assert vlyard.job(first).cancel_requested_at is None
    # then it is told to stop soon, once
    assert reaper.reap()["orphans"] == 1
    assert vlyard.job(first).cancel_requested_at is not None
    assert reaper.reap()["orphans"] == 0
