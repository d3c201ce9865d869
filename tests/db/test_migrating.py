"""The way from an empty database to this version's tables, and back."""

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import create_engine

from control.stack.stack import Stack
from db.migrating import differences, downgrade, is_served, upgrade
from db.models import Table
from db.session import engine_url
from tests.system import fresh_database
from vlyard.errors import Unavailable


@pytest.fixture
def empty(servers: Stack) -> str:
    """The URL of a database in which there is nothing."""
    return fresh_database(servers.settings["VLYARD_DATABASE_URL"])


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in rows} - {"alembic_version"}


def served(url: str) -> bool:
    engine = create_engine(engine_url(url))
    with engine.connect() as connection:
        answer = is_served(connection)
    engine.dispose()
    return answer


def test_the_migrations_lead_from_nothing_to_the_models_and_back(empty: str) -> None:
    assert not served(empty)
    upgrade(empty)
    assert tables(empty) == set(Table.metadata.tables)
    assert served(empty)
    downgrade(empty, "base")
    assert tables(empty) == set()
    assert not served(empty)
    upgrade(empty)
    assert tables(empty) == set(Table.metadata.tables)


def test_models_and_migrations_agree(database_url: str) -> None:
    assert differences(database_url) == []


def test_a_column_that_no_model_has_is_a_difference(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE jobs ADD COLUMN surprise text")
    assert len(differences(database_url)) == 1


def test_several_processes_may_upgrade_at_once(empty: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(upgrade, [empty] * 4))
    assert served(empty)


def test_upgrading_what_is_served_changes_nothing(database_url: str) -> None:
    upgrade(database_url)
    assert differences(database_url) == []


def test_a_database_that_does_not_answer_is_named_unavailable() -> None:
    with pytest.raises(Unavailable, match="database"):
        upgrade("postgresql://nobody@127.0.0.1:1/none")


def test_a_migration_is_begun_again_where_a_transaction_keeps_a_table_from_it(database_url: str) -> None:
    # given a transaction that works with a table for longer than a migration waits, and makes others wait, for a lock
    with psycopg.connect(database_url) as busy:
        busy.execute("LOCK TABLE attempts IN ROW EXCLUSIVE MODE")
        ending = threading.Timer(4, busy.commit)
        ending.start()
        # when that table's migration is taken back and done again
        downgrade(database_url, "0002")
        ending.join()
        upgrade(database_url)
    # then it has happened
    assert differences(database_url) == []
