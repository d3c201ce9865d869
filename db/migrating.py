"""Bringing a database to the schema that this code expects."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from db.models import Table
from db.session import engine_url, translated
from vlyard.errors import Unavailable

# Any constant will do, as long as every process that migrates takes the same advisory lock.
_LOCK = 0x766C79617264
_LOCK_MILLISECONDS = 3_000  # that a migration waits for a table, and those who come after it with it
_LOCK_STATES = {"40P01", "55P03"}  # it and another waited for each other; the time was over
_TRIES = 20


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate to a revision; processes that do so at once wait for each other."""
    _migrate(url, command.upgrade, revision)


def downgrade(url: str, revision: str) -> None:
    """Migrate back to a revision; `base` is the empty database."""
    _migrate(url, command.downgrade, revision)


def differences(url: str) -> list[object]:
    """What the models say and the database lacks, or the other way round; empty when both agree."""
    with _connection(url) as connection:
        return list(
            compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Table.metadata)
        )


def is_served(connection: Connection) -> bool:
    """Whether this code can work on the database's schema: it is this version's, or a newer one's.

    Revisions are numbered, and a migration leaves what the version before it needs, so that versions can be replaced
    role by role after the schema.
    """
    newest = ScriptDirectory.from_config(_config(connection)).get_current_head() or ""
    return (MigrationContext.configure(connection).get_current_revision() or "") >= newest


def write_revision(url: str, number: str, message: str) -> None:
    """Write the next migration from what the models say and the database lacks."""
    with _connection(url) as connection:
        command.revision(_config(connection), message, autogenerate=True, rev_id=number)


def _migrate(url: str, move: Callable[[Config, str], None], revision: str) -> None:
    """Migrate in one transaction, which is begun again where those who work in the database keep a lock from it."""
    for left in reversed(range(_TRIES)):
        try:
            with _connection(url) as connection:
                connection.execute(text(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}"))
                move(_config(connection), revision)
        except Unavailable as error:
            if not left or not _lacked_a_lock(error):
                raise
            time.sleep(1)
        else:
            return


def _lacked_a_lock(error: Unavailable) -> bool:
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) in _LOCK_STATES


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "migrations:")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _connection(url: str) -> Iterator[Connection]:
    engine = create_engine(engine_url(url))
    try:
        with translated(), engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection
    finally:
        engine.dispose()
