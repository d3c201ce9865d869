"""Bringing a database to the schema that this code expects."""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from db.models import Table
from db.session import engine_url, translated

# Any constant will do, as long as every process that migrates takes the same advisory lock.
_LOCK = 0x766C79617264


def upgrade(url: str, revision: str = "head") -> None:
    """Migrate to a revision; processes that do so at once wait for each other."""
    with _connection(url) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(url: str, revision: str) -> None:
    """Migrate back to a revision; `base` is the empty database."""
    with _connection(url) as connection:
        command.downgrade(_config(connection), revision)


def differences(url: str) -> list[object]:
    """What the models say and the database lacks, or the other way round; empty when both agree."""
    with _connection(url) as connection:
        return list(
            compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Table.metadata)
        )


def is_current(connection: Connection) -> bool:
    """Whether the database has the newest revision that this code knows."""
    newest = ScriptDirectory.from_config(_config(connection)).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == newest


def write_revision(url: str, number: str, message: str) -> None:
    """Write the next migration from what the models say and the database lacks."""
    with _connection(url) as connection:
        command.revision(_config(connection), message, autogenerate=True, rev_id=number)


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
