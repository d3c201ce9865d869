"""/v1/jobs/{job}/why: every place in which a job can be, told from the rows that put it there."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from control.lifecycle import Ending, finish
from control.rules import rules_from
from control.settings import Settings
from db import accounts, jobs, queue, workers
from db.models import Job, Outcome
from db.queue import Pair
from db.session import Database
from tests.api.conftest import Join
from tests.api.visitor import Visitor
from tests.db import rows
from vlyard.errors import Blame, Complaint
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State
from vlyard.jobs.view import Failure


@pytest.fixture
def pool(database: Database) -> str:
    """A pool of the test's own."""
    name = f"p{uuid4().hex}"
    with database.transaction() as session:
        accounts.ensure_pool(session, name)
    return name


def why(visitor: Visitor, job: UUID | str) -> dict[str, Any]:
    reply = visitor.get(f"/v1/jobs/{job}/why")
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def place(visitor: Visitor, job: UUID | str) -> tuple[str, int | None, int | None]:
    said = why(visitor, job)
    return said["reason"], said["position"], said["ahead"]


def end(database: Database, settings: Settings, pair: Pair, outcome: Outcome, failure: Failure | None = None) -> None:
    """Let a running attempt end so."""
    with database.transaction() as session:
        holder = session.get_one(Job, pair[0]).worker_id
        assert holder is not None
        assert finish(session, holder, [Ending(pair, outcome, {}, failure)], rules_from(settings))


# --- in the line ----------------------------------------------------------------------------------------------


def test_a_job_without_workers_says_which_worker_to_start(database: Database, visitor: Visitor, pool: str) -> None:
    with database.transaction() as session:
        job = rows.queued(session, visitor.team, pool=pool, kind="inference")
        rows.worker(session, pool=pool)  # for other kinds
        rows.worker(session, pool=pool, kinds=["inference"], seconds_silent=3600)  # dead
    said = why(visitor, job)
    assert (said["job"], said["state"], said["reason"]) == (str(job), "queued", "no_worker")
    assert said["sentence"] == f"No worker of pool {pool!r} that runs inference jobs is alive."
    assert said["next_step"] == f"Start a worker: vlyard worker --device gpu --pool {pool}"


def test_a_worker_that_drains_takes_nothing(database: Database, visitor: Visitor, pool: str) -> None:
    with database.transaction() as session:
        job = rows.queued(session, visitor.team, pool=pool)
        workers.drain(session, rows.worker(session, pool=pool), draining=True)
    said = why(visitor, job)
    assert (said["reason"], said["next_step"].endswith("vlyard drain NAME --undo")) == ("no_worker", True)


def test_the_next_job_goes_to_a_free_slot_and_where_it_does_not_no_dispatcher_runs(
    database: Database, visitor: Visitor, pool: str
) -> None:
    with database.transaction() as session:
        rows.worker(session, pool=pool)
        job = rows.queued(session, visitor.team, pool=pool)
    assert place(visitor, job) == ("next", 1, 0)
    with database.transaction() as session:
        long_ago = datetime.now(UTC) - timedelta(minutes=5)
        session.execute(update(Job).where(Job.id == job).values(available_at=long_ago))
    assert "vlyard dispatcher" in why(visitor, job)["next_step"]


def test_the_next_job_waits_for_the_only_slot(database: Database, visitor: Visitor, pool: str) -> None:
    with database.transaction() as session:
        rows.running(session, visitor.team, rows.worker(session, pool=pool), pool=pool)
        job = rows.queued(session, visitor.team, pool=pool)
    said = why(visitor, job)
    assert (said["reason"], said["position"], said["ahead"]) == ("slots", 1, 0)
    assert said["sentence"] == f"It is the next. The only slot for noop jobs in pool {pool!r} is taken."


def test_a_slot_that_only_another_kind_may_have_is_not_free_for_it(
    database: Database, visitor: Visitor, pool: str
) -> None:
    with database.transaction() as session:
        holder = rows.worker(session, pool=pool, kinds=["noop"])
        rows.worker(session, pool=pool, kinds=["conversion"])
        rows.running(session, visitor.team, holder, pool=pool)
        job, other = (rows.queued(session, visitor.team, pool=pool, kind=kind) for kind in ("noop", "conversion"))
    assert (place(visitor, job), place(visitor, other)) == (("slots", 1, 0), ("next", 1, 0))


def test_a_teams_line_goes_by_priority_then_by_age(database: Database, visitor: Visitor, pool: str) -> None:
    with database.transaction() as session:
        rows.running(session, visitor.team, rows.worker(session, pool=pool), pool=pool)
        old, older_but_low = (rows.queued(session, visitor.team, pool=pool, priority=each) for each in (0, -5))
        young, urgent = (rows.queued(session, visitor.team, pool=pool, priority=each) for each in (0, 5))
    assert [place(visitor, job) for job in (urgent, old, young, older_but_low)] == [
        ("slots", 1, 0),
        ("own_line", 2, 1),
        ("own_line", 3, 2),
        ("own_line", 4, 3),
    ]


def test_teams_that_were_there_before_go_first(database: Database, join: Join, pool: str) -> None:
    early, late = join(), join()
    with database.transaction() as session:
        rows.running(session, early.team, rows.worker(session, pool=pool), pool=pool)
        since = datetime.now(UTC) - timedelta(minutes=1)
        for _ in range(3):
            rows.queued(session, early.team, pool=pool, created_at=since)
        job = rows.queued(session, late.team, pool=pool)
        rows.queued(session, early.team, pool=pool, created_at=datetime.now(UTC) + timedelta(minutes=1))
    said = why(late, job)
    assert (said["reason"], said["position"], said["ahead"]) == ("other_teams", 1, 3)
    assert said["sentence"].startswith("It is the next of your team. 3 jobs of other teams go first.")


def test_kinds_that_share_workers_share_a_line_and_others_do_not(
    database: Database, visitor: Visitor, pool: str
) -> None:
    with database.transaction() as session:
        rows.worker(session, pool=pool, kinds=["noop", "conversion"])
        rows.queued(session, visitor.team, pool=pool, kind="conversion")
        rows.queued(session, visitor.team, pool=pool, kind="inference")
        job = rows.queued(session, visitor.team, pool=pool)
    assert place(visitor, job) == ("own_line", 2, 1)


def test_a_place_beyond_the_thousandth_is_told_as_such(database: Database, visitor: Visitor, pool: str) -> None:
    # given many queued jobs
    with database.transaction() as session:
        rows.worker(session, pool=pool)
        first = rows.queued(session, visitor.team, pool=pool)
        template = jobs.NewJob(
            uuid4(), visitor.team, "noop", pool, Device.CPU, 0, {"kind": "noop"}, State.QUEUED, 3,
            {}, None, None, None, None, datetime.now(UTC),
        )  # fmt: skip
        base = first.int + 1
        jobs.insert_jobs(session, (template._replace(id=UUID(int=base + each)) for each in range(3000)))
    # when the first, the thousandth, the one after it and the last ask
    asked = [first, UUID(int=base + 998), UUID(int=base + 999), UUID(int=base + 1000), UUID(int=base + 2999)]
    # then each has its place, as far as places are counted
    assert [place(visitor, job) for job in asked] == [
        ("next", 1, 0),
        ("own_line", 1000, 999),
        ("own_line", 1001, 1000),
        ("own_line", 1001, 1001),
        ("own_line", 1001, 1001),
    ]
    assert why(visitor, asked[-1])["sentence"].startswith("More than 1,000 jobs of your team go first.")


# --- elsewhere ------------------------------------------------------------------------------------------------


def test_a_job_that_backs_off_says_until_when_and_why(
    database: Database, visitor: Visitor, pool: str, api_settings: Settings
) -> None:
    with database.transaction() as session:
        pair = rows.running(session, visitor.team, rows.worker(session, pool=pool), pool=pool)
    away = Failure(code="unavailable", message="the store is away", blame=Blame.OUTAGE)
    end(database, api_settings, pair, Outcome.FAILED, away)
    with database.transaction() as session:
        until = datetime.now(UTC) + timedelta(hours=1)
        session.execute(update(Job).where(Job.id == pair[0]).values(available_at=until))
    said = why(visitor, pair[0])
    assert (said["reason"], said["position"], said["attempt"], said["max_attempts"]) == ("backing_off", None, 1, 3)
    assert datetime.fromisoformat(said["until"]) == until
    assert said["error"]["message"] == "the store is away"
    assert said["sentence"].startswith("Attempt 1 failed: the store is away [unavailable]. The next one comes at")


def test_a_blocked_job_names_what_it_waits_for(visitor: Visitor) -> None:
    batch = {
        "jobs": [
            {"name": "one", "spec": {"kind": "conversion", "source": visitor.upload(b"a zip, say")["id"]}},
            {"spec": {"kind": "inference", "image": "ref:one/contact_sheet", "prompt": "What is this?"}},
        ]
    }
    one, two = (job["id"] for job in visitor.post("/v1/jobs:batch", batch).json()["data"])
    said = why(visitor, two)
    need = {"job": one, "kind": "conversion", "state": "queued", "output": "contact_sheet"}
    assert (said["reason"], said["needs"], said["position"]) == ("jobs", [need], None)
    assert said["sentence"] == f"It waits for the output 'contact_sheet' of job {one} (conversion, queued)."
    assert said["next_step"].endswith(f"vlyard why {one}")


def test_a_job_that_was_sent_out_says_so_and_where_nobody_hears_it_which_worker_to_start(
    database: Database, visitor: Visitor, pool: str
) -> None:
    with database.transaction() as session:
        worker = rows.worker(session, pool=pool)
        job, _ = rows.dispatched(session, visitor.team, pool=pool)
    assert place(visitor, job) == ("handed_over", None, None)
    with database.transaction() as session:
        workers.end(session, worker)
    assert why(visitor, job)["reason"] == "no_worker"


def test_a_job_that_was_lost_in_company_says_what_is_not_to_be_beside_it(
    database: Database, visitor: Visitor, pool: str
) -> None:
    with database.transaction() as session:
        rows.worker(session, pool=pool)
        job, _ = rows.dispatched(session, visitor.team, pool=pool, alone=True)
    said = why(visitor, job)
    assert said["reason"] == "handed_over"
    assert said["sentence"].startswith("A worker was lost with it and others, so nothing that has only begun ")


def test_a_running_job_names_its_worker_and_one_that_was_told_to_stop_says_that(
    database: Database, visitor: Visitor, pool: str
) -> None:
    with database.transaction() as session:
        job, _ = rows.running(session, visitor.team, rows.worker(session, pool=pool), pool=pool)
    said = why(visitor, job)
    assert (said["reason"], said["worker"]) == ("running", "test")
    assert said["sentence"].startswith("test runs attempt 1 of 3 since ")
    assert said["since"] == visitor.get(f"/v1/jobs/{job}").json()["started_at"]
    visitor.post(f"/v1/jobs/{job}/cancel")
    assert why(visitor, job)["reason"] == "stopping"


def test_a_running_job_whose_worker_is_not_heard_of_says_so(database: Database, visitor: Visitor, pool: str) -> None:
    with database.transaction() as session:
        job, _ = rows.running(session, visitor.team, rows.worker(session, pool=pool), lease=-60, pool=pool)
    said = why(visitor, job)
    assert (said["reason"], "no dispatcher runs" in said["next_step"]) == ("running", True)


def test_a_failed_job_says_how_to_mend_it(
    database: Database, visitor: Visitor, pool: str, api_settings: Settings
) -> None:
    with database.transaction() as session:
        pair = rows.running(session, visitor.team, rows.worker(session, pool=pool), pool=pool)
    complaint = Complaint("/spec/echo", "it is rude", "be polite")
    rude = Failure(code="invalid_input", message="the echo cannot be", blame=Blame.USER, complaints=(complaint,))
    end(database, api_settings, pair, Outcome.FAILED, rude)
    said = why(visitor, pair[0])
    assert (said["reason"], said["error"]["code"]) == ("ended", "invalid_input")
    assert "the echo cannot be; /spec/echo: it is rude (be polite) [invalid_input]." in said["sentence"]
    assert said["next_step"].endswith(f"vlyard clone {pair[0]} --set spec.echo=…")


def test_a_job_that_succeeded_and_one_that_was_cancelled_have_ended(
    database: Database, visitor: Visitor, pool: str, api_settings: Settings
) -> None:
    with database.transaction() as session:
        pair = rows.running(session, visitor.team, rows.worker(session, pool=pool), pool=pool)
    end(database, api_settings, pair, Outcome.SUCCEEDED)
    other = visitor.submit()["id"]
    visitor.post(f"/v1/jobs/{other}/cancel")
    assert [why(visitor, job)["reason"] for job in (pair[0], other)] == ["ended"] * 2
    assert why(visitor, pair[0])["sentence"].startswith("It succeeded at ")
    assert why(visitor, other)["next_step"].endswith(f"vlyard retry {other}")


def test_a_waiting_job_is_put_back_into_the_line_it_left(database: Database, visitor: Visitor, pool: str) -> None:
    with database.transaction() as session:
        rows.worker(session, pool=pool)
        job = rows.queued(session, visitor.team, pool=pool, rung_at=datetime.now(UTC), available_at=datetime.now(UTC))
    assert place(visitor, job) == ("backing_off", None, None)  # its pause is over, and no dispatcher has looked yet
    with database.transaction() as session:
        queue.admit(session, 10)
    assert place(visitor, job) == ("next", 1, 0)
