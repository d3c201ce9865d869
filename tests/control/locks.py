"""Who waits for whom in a database."""

from sqlalchemy import text

from db.session import Database


def waiting_for_locks(database: Database) -> int:
    """How many connections to the database wait for each other."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.transaction() as session:
        return session.scalar(text(query)) or 0
