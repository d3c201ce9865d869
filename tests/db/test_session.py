"""Transactions: committed at the end, rolled back by an error; an outage has one name; what JSON cannot hold."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from db.models import Job, Team
from db.session import Database
from tests.db import rows
from vlyard.errors import Unavailable


def names(database: Database) -> set[str]:
    with database.transaction() as session:
        return set(session.scalars(select(Team.name)))


def test_a_transaction_is_committed_at_its_end_and_rolled_back_by_an_error(database: Database) -> None:
    with database.transaction() as session:
        rows.team(session, "kept")
    with suppress(KeyError), database.transaction() as session:
        rows.team(session, "dropped")
        raise KeyError
    assert names(database) == {"kept"}


def test_a_refused_connection_is_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable), database.transaction() as session:
        session.execute(text("SELECT 1"))


def test_a_connection_that_the_server_ends_is_unavailable_once_and_then_replaced(database: Database) -> None:
    with pytest.raises(Unavailable), database.transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert names(database) == set()


def lock_soon(session: Session, job: UUID) -> None:
    session.execute(text("SET LOCAL lock_timeout = '20ms'"))
    session.execute(select(Job.id).where(Job.id == job).with_for_update())


def test_a_lock_that_does_not_come_free_is_unavailable(database: Database) -> None:
    with database.transaction() as session:
        job = rows.queued(session, rows.team(session))
    with database.transaction() as holder:
        lock_soon(holder, job)
        with pytest.raises(Unavailable), database.transaction() as session:
            lock_soon(session, job)


def test_of_two_transactions_that_wait_for_each_other_one_goes_on_and_one_may_try_again(database: Database) -> None:
    with database.transaction() as session:
        owner = rows.team(session)
        one, two = rows.queued(session, owner), rows.queued(session, owner)
    together = threading.Barrier(2)

    def lock_both(first: UUID, second: UUID) -> bool:
        with suppress(Unavailable), database.transaction() as session:
            session.execute(select(Job.id).where(Job.id == first).with_for_update())
            together.wait(30)
            session.execute(select(Job.id).where(Job.id == second).with_for_update())
            return True
        return False

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(lock_both, (one, two), (two, one))) == [False, True]


def test_a_statement_that_does_not_end_in_time_is_unavailable(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("SET statement_timeout = '20ms'"))
    with pytest.raises(Unavailable), database.transaction() as session:
        session.execute(text("SELECT pg_sleep(20)"))


def test_a_wrong_statement_is_our_bug_and_passes_as_it_is(database: Database) -> None:
    with pytest.raises(DBAPIError), database.transaction() as session:
        session.execute(text("SELECT nothing FROM nowhere"))


@pytest.fixture
def narrow(database_url: str) -> Iterator[Database]:
    """A database with a single connection."""
    database = Database(database_url, connections=1)
    yield database
    database.close()


def test_hot_statements_are_never_prepared(narrow: Database) -> None:
    for _ in range(10):
        with narrow.transaction() as session:
            rows.team(session, "often")
    with narrow.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0


@pytest.mark.parametrize("state", ["08006", "25006", "40001", "53100", "53300", "57P01", "58030"])
def test_what_passes_by_itself_is_an_outage(database: Database, state: str) -> None:
    with pytest.raises(Unavailable), database.transaction() as session:
        session.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"))


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("a\0b", "a\ufffdb"),
        ("\\u0000", "\\u0000"),
        ("\\\0", "\\\ufffd"),
        ("half \ud83d", "half ?"),
        ("käse 🧀", "käse 🧀"),
    ],
    ids=["nul", "escaped", "escape-and-nul", "half-a-pair", "plain"],
)
def test_what_postgres_cannot_hold_in_json_is_replaced_and_nothing_else_is(
    database: Database, given: str, stored: str
) -> None:
    with database.transaction() as session:
        job = rows.queued(session, rows.team(session), result={"text": given})
        assert session.scalar(select(Job.result).where(Job.id == job)) == {"text": stored}
