"""Commands of the server side that belong to no single role: dispatcher, flower, migrate, key.

Each imports what it runs when it runs, because every `vlyard` command reads this file.
"""

import gc
import signal
from typing import Annotated

import orjson
import typer

from control.settings import load_settings
from vlyard.cli.listing import AsJson
from vlyard.errors import InvalidInput
from vlyard.teams import Role


def dispatcher() -> None:
    """Run a dispatcher, which also sends what webhooks wait for, and sweeps; any number may run."""
    from control.artefacts import ArtefactStore
    from control.delivering import Deliverer
    from control.dispatcher import Dispatcher
    from control.logs import configure
    from control.queue import Doorbells
    from control.rules import rules_from
    from control.sweeping import Sweeper
    from db.session import Database

    configure()
    settings = load_settings()
    database = Database(settings.database_url.get_secret_value(), connections=3, role="vlyard-dispatcher")
    process = Dispatcher(database, Doorbells(settings), settings, rules_from(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop())
    helpers = (Deliverer(database, settings), Sweeper(database, ArtefactStore(settings), settings))
    for each in helpers:
        each.start()
    gc.collect()
    gc.freeze()  # what is loaded by now stays, and is not looked through for garbage at every turn
    process.run()
    for each in helpers:
        each.stop()
    database.close()


def flower() -> None:
    """Run Flower, which shows workers and messages, behind its password."""
    from control.queue import run_flower

    settings = load_settings()
    if not settings.flower_password.get_secret_value():
        raise InvalidInput("Flower does not start without a password: set VLYARD_FLOWER_PASSWORD")
    run_flower(settings)


def migrate(as_json: AsJson = False) -> None:
    """Bring the database to this version's schema, and make the bucket and the default pool."""
    from control.preparing import prepare

    prepare(load_settings())
    if as_json:
        typer.echo('{"migrated": true}')


def key(
    team: Annotated[str, typer.Argument(help="The team's name; it is made where it does not exist.")],
    role: Annotated[Role, typer.Option(help="What the key may do.")] = Role.MEMBER,
    as_json: AsJson = False,
) -> None:
    """Make an API key for a team, and print it: it is shown only now."""
    from control.accounts import issue_key
    from db.session import Database

    database = Database(load_settings().database_url.get_secret_value(), connections=1)
    with database.transaction() as session:
        made = issue_key(session, team, role)
    database.close()
    typer.echo(orjson.dumps({"team": team, "role": role, "key": made}) if as_json else made)
