"""Commands of the server side that belong to no single role: dispatcher, flower, migrate, keys."""

import signal
from typing import Annotated

import typer

from control.accounts import issue_key
from control.artefacts import ArtefactStore
from control.dispatcher import Dispatcher
from control.logs import configure
from control.queue import Doorbells, run_flower
from control.rules import rules_from
from control.settings import load_settings
from db import accounts
from db.migrating import upgrade
from db.models import Role
from db.session import Database
from vlyard.errors import InvalidInput


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    for command in (dispatcher, flower, migrate, issue):
        app.command("key" if command is issue else None)(command)


def dispatcher() -> None:
    """Run a dispatcher; any number may run."""
    configure()
    settings = load_settings()
    database = Database(settings.database_url.get_secret_value(), connections=2, role="vlyard-dispatcher")
    process = Dispatcher(database, Doorbells(settings), settings, rules_from(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop())
    process.run()
    database.close()


def flower() -> None:
    """Run Flower, which shows workers and messages, behind its password."""
    settings = load_settings()
    if not settings.flower_password.get_secret_value():
        raise InvalidInput("Flower does not start without a password: set VLYARD_FLOWER_PASSWORD")
    run_flower(settings)


def migrate() -> None:
    """Bring the database to this version's schema, and make the bucket and the default pool."""
    settings = load_settings()
    prepare(settings.database_url.get_secret_value())
    ArtefactStore(settings).ensure_bucket()


def issue(
    team: Annotated[str, typer.Argument(help="The team's name; it is made where it does not exist.")],
    role: Annotated[Role, typer.Option(help="What the key may do.")] = Role.MEMBER,
) -> None:
    """Make an API key for a team, and print it: it is shown only now."""
    database = Database(load_settings().database_url.get_secret_value(), connections=1)
    with database.transaction() as session:
        typer.echo(issue_key(session, team, role))
    database.close()


def prepare(database_url: str) -> None:
    """Migrate a database, and make the default pool."""
    upgrade(database_url)
    database = Database(database_url, connections=1)
    with database.transaction() as session:
        accounts.ensure_pool(session, "default")
    database.close()
