"""Accepting a job: what is checked, what is stored, and what makes two requests one."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import TypeAdapter
from sqlalchemy import func, select

from control import submit, uploads
from control.accounts import Caller
from control.submit import Request, Submitted, fingerprint
from db.models import Artefact, ArtefactState, Job
from tests.db import rows
from tests.system import System
from vlyard.errors import Forbidden, IdempotencyMismatch, InFlight, InvalidInput, VLyardError
from vlyard.jobs.state import State
from vlyard.jobs.view import NewArtefact, Submission
from vlyard.teams import Role


def submission(pool: str = "default", priority: int = 0, **spec: Any) -> Submission:
    body = {"spec": {"kind": "noop", **spec}, "pool": pool, "priority": priority}
    return TypeAdapter(Submission).validate_python(body)


def accept(vlyard: System, caller: Caller, wanted: Submission, key: str | None = None) -> Job:
    with vlyard.database.transaction() as session:
        return session.get_one(Job, submit.submit(session, caller, wanted, key).id)


def accept_each(vlyard: System, *requests: Request) -> Sequence[Submitted | VLyardError]:
    with vlyard.database.transaction() as session:
        return submit.submit_each(session, requests)


def upload(vlyard: System, caller: Caller, state: ArtefactState = ArtefactState.READY) -> UUID:
    with vlyard.database.transaction() as session:
        file = NewArtefact(name="a.zip", bytes=0, sha256=hashlib.sha256().hexdigest())
        row = uploads.announce(session, caller, file, None)
        row.state = state
        return row.id


def count(vlyard: System) -> int:
    with vlyard.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def test_a_job_is_stored_as_it_was_asked_for_with_its_first_event(vlyard: System) -> None:
    caller = vlyard.caller()
    job = accept(vlyard, caller, submission(priority=7, echo="hello"))
    assert (job.state, job.kind, job.pool, job.priority, job.attempt) == (State.QUEUED, "noop", "default", 7, 0)
    assert job.team_id == caller.team
    assert job.spec["echo"] == "hello"
    with vlyard.database.transaction() as session:
        assert rows.events(session, job.id) == [(1, "state", {"state": "queued"})]


def test_a_kind_for_administrators_is_refused_to_members(vlyard: System) -> None:
    with pytest.raises(Forbidden, match="noop"):
        accept(vlyard, vlyard.caller(role=Role.MEMBER), submission())


def test_a_pool_that_does_not_exist_is_named(vlyard: System) -> None:
    with pytest.raises(InvalidInput, match="/pool: there is no pool 'nowhere'"):
        accept(vlyard, vlyard.caller(), submission(pool="nowhere"))


def test_an_input_must_be_the_teams_own_and_ready(vlyard: System) -> None:
    ours, theirs = vlyard.caller("ours"), vlyard.caller("theirs")
    wrong = [uuid4(), upload(vlyard, theirs), upload(vlyard, ours, ArtefactState.PENDING)]
    for artefact in wrong:
        with pytest.raises(InvalidInput, match=f"/spec/source: there is no artefact {artefact}"):
            accept(vlyard, ours, submission(kind="conversion", source=artefact))
    accept(vlyard, ours, submission(kind="conversion", source=upload(vlyard, ours)))
    assert count(vlyard) == 1


def test_text_that_cannot_be_stored_is_refused_and_named(vlyard: System) -> None:
    with pytest.raises(InvalidInput, match=r"/spec/echo: .*U\+0000"):
        accept(vlyard, vlyard.caller(), submission(echo="a\0b"))


def test_twenty_tries_of_one_request_at_once_are_one_job(vlyard: System) -> None:
    caller = vlyard.caller()

    def attempt(_: int) -> UUID | None:
        try:
            return accept(vlyard, caller, submission(), "key").id
        except InFlight:
            return None

    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(attempt, range(20))) - {None}
    assert len(made) == 1
    assert count(vlyard) == 1


def test_a_try_that_meets_another_one_at_work_is_told_so_at_once_and_later_finds_its_job(vlyard: System) -> None:
    caller = vlyard.caller()
    with vlyard.database.transaction() as session:
        first = submit.submit(session, caller, submission(), "key").id
        with pytest.raises(InFlight):
            accept(vlyard, caller, submission(), "key")
        assert accept(vlyard, caller, submission(), "another key").id != first
    assert accept(vlyard, caller, submission(), "key").id == first


def test_a_try_that_was_rolled_back_leaves_its_key_free(vlyard: System) -> None:
    caller = vlyard.caller()
    with vlyard.database.transaction() as session:
        submit.submit(session, caller, submission(), "key")
        session.rollback()
    assert accept(vlyard, caller, submission(), "key").id
    assert count(vlyard) == 1


def test_a_key_used_for_another_request_is_refused_and_another_teams_is_another_key(vlyard: System) -> None:
    ours, theirs = vlyard.caller("ours"), vlyard.caller("theirs")
    first = accept(vlyard, ours, submission(echo="one"), "key")
    with pytest.raises(IdempotencyMismatch):
        accept(vlyard, ours, submission(echo="two"), "key")
    assert accept(vlyard, theirs, submission(echo="one"), "key").id != first.id


def test_a_request_that_was_refused_does_not_use_up_its_key(vlyard: System) -> None:
    caller = vlyard.caller()
    with pytest.raises(InvalidInput):
        accept(vlyard, caller, submission(pool="later"), "key")
    with vlyard.database.transaction() as session:
        rows.worker(session, pool="later")
    assert accept(vlyard, caller, submission(pool="later"), "key").pool == "later"


def test_requests_in_one_transaction_are_each_answered_by_themselves(vlyard: System) -> None:
    admin, member, other = vlyard.caller(), vlyard.caller(role=Role.MEMBER), vlyard.caller("theirs")
    requests = [
        Request(admin, submission(echo="first"), "key"),
        Request(member, submission(), None),
        Request(admin, submission(pool="nowhere"), "another key"),
        Request(admin, submission(echo="first"), "key"),
        Request(admin, submission(echo="other"), "key"),
        Request(other, submission(echo="first"), "key"),
        Request(admin, submission(kind="conversion", source=upload(vlyard, other)), None),
    ]
    first, forbidden, nowhere, again, mismatch, theirs, not_ours = accept_each(vlyard, *requests)
    assert isinstance(forbidden, Forbidden)
    assert isinstance(nowhere, InvalidInput)
    assert [each.where for each in nowhere.complaints] == ["/pool"]
    assert isinstance(mismatch, IdempotencyMismatch)
    assert isinstance(not_ours, InvalidInput)
    assert [each.where for each in not_ours.complaints] == ["/spec/source"]
    assert not isinstance(first, VLyardError)
    assert not isinstance(again, VLyardError)
    assert not isinstance(theirs, VLyardError)
    assert first.id == again.id != theirs.id
    assert (first.team_id, theirs.team_id) == (admin.team, other.team)
    assert count(vlyard) == 2


def test_a_refusal_in_company_uses_up_no_key_and_hides_no_earlier_job(vlyard: System) -> None:
    caller = vlyard.caller()
    source = upload(vlyard, caller)
    reader, later = submission(kind="conversion", source=source), submission(pool="later")
    made = accept(vlyard, caller, reader, "reader")
    with vlyard.database.transaction() as session:
        session.get_one(Artefact, source).state = ArtefactState.PENDING
    same, refused = accept_each(vlyard, Request(caller, reader, "reader"), Request(caller, later, "later"))
    assert not isinstance(same, VLyardError)
    assert same.id == made.id
    assert isinstance(refused, InvalidInput)
    with vlyard.database.transaction() as session:
        rows.worker(session, pool="later")
    [accepted] = accept_each(vlyard, Request(caller, later, "later"))
    assert not isinstance(accepted, VLyardError)


def test_requests_are_the_same_when_they_mean_the_same() -> None:
    assert fingerprint(submission(echo="a")) == fingerprint(submission(echo="a", seconds=0))
    assert fingerprint(submission(echo="a")) != fingerprint(submission(echo="b"))
    assert fingerprint(submission()) != fingerprint(submission(priority=1))
