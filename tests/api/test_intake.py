"""Submissions that share a transaction: they save commits, and nobody notices the others."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from api.intake import Intake
from control.submit import Submitted
from db.session import Database
from tests.api.conftest import Join
from tests.api.visitor import Visitor
from vlyard.errors import InvalidInput, Unauthenticated, Unavailable
from vlyard.jobs.noop import NoopSpec
from vlyard.jobs.view import Submission
from vlyard.teams import Role

PLAIN = Submission(spec=NoopSpec())
UNKNOWN = f"vly_{'0' * 12}_{'0' * 64}"


@pytest.fixture
def intake(database: Database) -> Iterator[Intake]:
    """An intake of the test's own."""
    intake = Intake(database, lambda: None)
    intake.start()
    yield intake
    intake.stop()


def take(intake: Intake, *wanted: tuple[str, Submission, str | None]) -> Sequence[Submitted | BaseException]:
    """Hand everything over at once; the answers in that order."""

    async def all_at_once() -> Sequence[Submitted | BaseException]:
        answers: Sequence[Submitted | BaseException]
        answers = await asyncio.gather(*(intake.take(*each) for each in wanted), return_exceptions=True)
        return answers

    return asyncio.run(all_at_once())


def listed(visitor: Visitor) -> set[str]:
    return {job["id"] for job in visitor.get("/v1/jobs?limit=200").json()["data"]}


def test_what_comes_at_once_shares_transactions_and_each_has_its_own_job(intake: Intake, visitor: Visitor) -> None:
    wanted = [Submission(spec=NoopSpec(echo=str(number))) for number in range(40)]
    jobs = take(intake, *((visitor.key, each, None) for each in wanted))
    assert [job.spec["echo"] for job in jobs if not isinstance(job, BaseException)] == [str(at) for at in range(40)]
    assert listed(visitor) == {str(job.id) for job in jobs if not isinstance(job, BaseException)}
    assert len({job.created_at for job in jobs if not isinstance(job, BaseException)}) < 40


def test_a_key_that_is_no_key_is_refused_and_its_company_is_not(intake: Intake, join: Join) -> None:
    ours, theirs = join(), join(Role.ADMIN)
    answers = take(
        intake, (ours.key, PLAIN, None), (UNKNOWN, PLAIN, None), ("", PLAIN, None), (theirs.key, PLAIN, None)
    )
    assert [isinstance(answer, Unauthenticated) for answer in answers] == [False, True, True, False]
    assert (len(listed(ours)), len(listed(theirs))) == (1, 1)


def test_what_the_database_will_not_have_harms_nobody_else(intake: Intake, visitor: Visitor) -> None:
    # Nothing that came through the API has such a label; if something has, its company must not suffer.
    wrong = PLAIN.model_copy(update={"labels": {"name": "a\0b"}})
    first, bad, last = take(intake, *((visitor.key, each, None) for each in (PLAIN, wrong, PLAIN)))
    assert isinstance(bad, Exception)
    assert not isinstance(bad, InvalidInput)
    assert [isinstance(answer, BaseException) for answer in (first, last)] == [False, False]
    assert len(listed(visitor)) == 2


def test_tries_of_one_request_at_once_find_the_same_job(intake: Intake, visitor: Visitor) -> None:
    jobs = take(intake, *[(visitor.key, PLAIN, "once")] * 20)
    assert len({job.id for job in jobs if not isinstance(job, BaseException)}) == 1
    assert len(listed(visitor)) == 1


def test_while_the_database_is_away_everybody_is_told_so() -> None:
    intake = Intake(Database("postgresql://nobody@127.0.0.1:1/none"), lambda: None)
    intake.start()
    answers = take(intake, *[(UNKNOWN, PLAIN, None)] * 3)
    intake.stop()
    assert [type(answer) for answer in answers] == [Unavailable] * 3
