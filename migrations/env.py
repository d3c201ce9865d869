"""How alembic reaches the database: with the connection that `db.migrating` hands it."""

from alembic import context

from db.models import Table


def run() -> None:
    context.configure(
        connection=context.config.attributes["connection"], target_metadata=Table.metadata, compare_type=True
    )
    with context.begin_transaction():
        context.run_migrations()


run()
