"""Webhooks: which URLs they may have, and a message for every end that somebody wants to know of."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from control import webhooks
from control.endings import Ended, follow_up
from db.models import DeliveryState, Job
from db.webhooks import lease_due, remove
from tests.control.hooks import EVERY, cancelled_job, hook, messages
from tests.system import System, eventually
from vlyard.errors import Conflict, InvalidInput
from vlyard.jobs.state import State
from vlyard.webhooks import EventType, NewWebhook


def end(session: Session, job: UUID, state: State, **columns: Any) -> None:
    """End a job as its worker would."""
    row = session.get_one(Job, job)
    session.execute(update(Job).where(Job.id == job).values(state=state, **columns))
    follow_up(session, [Ended(job, row.team_id, state)])


# --- which messages there are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_an_end_makes_one_message_for_each_webhook_that_wants_it(vlyard: System, state: State) -> None:
    wanted = EventType(f"job.{state}")
    first, second = hook(vlyard, "https://a.example", (wanted,)), hook(vlyard, "https://b.example")
    hook(vlyard, "https://c.example", tuple(set(EVERY) - {wanted}))
    hook(vlyard, "https://d.example", team="strangers")
    job = vlyard.submit()
    with vlyard.database.transaction() as session:
        end(session, job, state)
    made = messages(vlyard)
    assert {row.webhook_id for row in made} == {first.id, second.id}
    assert {(row.job_id, row.type, row.state, row.tries) for row in made} == {
        (job, wanted, DeliveryState.PENDING, 0),
    }


def test_a_message_says_what_ended_and_how_and_holds_no_result(vlyard: System) -> None:
    hook(vlyard, "https://a.example")
    job = vlyard.submit(echo="a secret of ours")
    error = {"code": "invalid_input", "message": "the words of somebody's file", "blame": "user", "complaints": []}
    with vlyard.database.transaction() as session:
        end(session, job, State.FAILED, result={"text": "a secret of ours"}, error=error)
    [row] = messages(vlyard)
    data = {"id": str(job), "kind": "noop", "state": "failed", "attempt": 0, "error": "invalid_input"}
    assert row.payload == {"type": "job.failed", "timestamp": row.payload["timestamp"], "data": data}
    assert row.payload["timestamp"].endswith("+00:00")


def test_an_end_that_is_rolled_back_tells_nobody(vlyard: System) -> None:
    hook(vlyard, "https://a.example")
    job = vlyard.submit()
    with vlyard.database.transaction() as session:
        end(session, job, State.SUCCEEDED)
        session.rollback()
    assert messages(vlyard) == []


def test_an_end_that_meets_the_deletion_of_a_webhook_succeeds(vlyard: System) -> None:
    # given a webhook that is just being deleted
    row, job = hook(vlyard, "https://a.example"), vlyard.submit()

    def finish() -> None:
        with vlyard.database.transaction() as session:
            end(session, job, State.SUCCEEDED)

    with ThreadPoolExecutor(1) as threads:
        with vlyard.database.transaction() as session:
            remove(session, row.team_id, row.id)
            finished = threads.submit(finish)
            eventually(lambda: waiting_for_locks(vlyard), what="the end's waiting")
        # then the end of the job, which waited for it, finds nobody to tell
        finished.result()
    assert vlyard.job(job).state is State.SUCCEEDED
    assert messages(vlyard) == []


def waiting_for_locks(vlyard: System) -> int:
    """How many connections to the database wait for each other."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with vlyard.database.transaction() as session:
        return session.scalar(text(query)) or 0


# --- making ---------------------------------------------------------------------------------------------------


@pytest.mark.settings(WEBHOOK_HOSTS="intranet.example, 127.0.0.1")
@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("https://10.0.0.1/", "not a public address"),
        ("https://127.0.0.2/", "not a public address"),
        ("https://2130706433/", "not a public address"),  # 127.0.0.1 in another dress
        ("https://169.254.169.254/latest/meta-data", "not a public address"),
        ("https://100.64.0.1/", "not a public address"),
        ("https://224.0.0.1/", "not a public address"),
        ("https://0.0.0.0/", "not a public address"),
        ("https://[::1]/", "not a public address"),
        ("https://[fd00::1]/", "not a public address"),
        ("https://[fe80::1]/", "not a public address"),
        ("https://[::ffff:10.0.0.1]/", "not a public address"),
        ("https://[64:ff9b::a00:1]/", "not a public address"),
        ("https://localhost/", "not a public address"),
        ("http://93.184.216.34/", "not encrypted"),
        ("https://no-such-name.invalid/", "cannot be resolved"),
        ("https://me:secret@93.184.216.34/", "password"),
        ("ftp://93.184.216.34/", "no web address"),
        ("/hook", "no web address"),
        ("https://", "no web address"),
        ("https://[::1", "no URL"),
    ],
)
def test_a_url_that_must_not_be_spoken_to_is_refused(vlyard: System, url: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint) as caught:
        webhooks.check(NewWebhook(url=url, events=EVERY), vlyard.settings)
    assert [each.where for each in caught.value.complaints] == ["/url"]


@pytest.mark.settings(WEBHOOK_HOSTS="Intranet.example, 127.0.0.1")
@pytest.mark.parametrize("url", ["https://93.184.216.34/", "https://[2606:2800:220:1::1]/x", "http://127.0.0.1:9/"])
def test_a_public_or_allowed_address_may_be_spoken_to(vlyard: System, url: str) -> None:
    webhooks.check(NewWebhook(url=url, events=EVERY), vlyard.settings)


def test_a_team_has_no_more_webhooks_than_an_end_can_tell(vlyard: System) -> None:
    for number in range(20):
        hook(vlyard, f"https://example.org/{number}")
    with pytest.raises(Conflict, match="20 webhooks"):
        hook(vlyard, "https://example.org/again")
    hook(vlyard, "https://example.org/", team="others")


def test_every_secret_is_another_and_no_object_shows_it(vlyard: System) -> None:
    first, second = hook(vlyard, "https://a.example"), hook(vlyard, "https://b.example")
    assert first.secret != second.secret
    assert first.secret.startswith("whsec_")
    assert len(webhooks.key_of(first.secret)) >= 24
    cancelled_job(vlyard)
    with vlyard.database.transaction() as session:
        due = lease_due(session, 60, each=4, limit=32)
    assert len(due) == 2
    assert "whsec_" not in repr(due)
