"""Commands for whoever runs the machines: workers, drain, revoke. They speak to the database, and need no API key.

Each imports what it runs when it runs, because every `vlyard` command reads this file.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from control.settings import load_settings
from vlyard.cli.listing import AsJson
from vlyard.errors import InvalidInput
from vlyard.teams import prefix_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.workers import AtWork

_LOOK_SECONDS = 1.0
_PIPED_WIDTH = 160  # columns where there is no terminal to ask


def workers(as_json: AsJson = False) -> None:
    """List the living workers: what they run, how much of it, and whether they are draining."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        _print([asdict(each) for each in _living()])
        return
    table = Table("name", "pool", "device", "kinds", "slots", "running", "state", "heartbeat")
    for each in _living():
        state, silent = "draining" if each.draining else "working", f"{each.silent_seconds:.0f} s ago"
        words = (each.name, each.pool, each.device, ", ".join(each.kinds), str(each.slots), str(each.running))
        table.add_row(*words, state, silent)
    console = Console()
    Console(width=None if console.is_terminal else _PIPED_WIDTH).print(table)


def drain(
    name: Annotated[str, typer.Argument(help="The worker's name, as `vlyard workers` shows it.")],
    undo: Annotated[bool, typer.Option("--undo", help="Give it jobs again.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return once it runs nothing any more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a worker no more jobs; what it runs goes on to its end."""
    from db import workers

    named = {each.id for each in _living() if each.name == name}
    if not named:
        raise InvalidInput(f"there is no living worker {name!r}: `vlyard workers` lists them")
    with _transaction() as session:
        for worker in named:
            workers.drain(session, worker, draining=not undo)
    if wait:
        time.sleep(_LOOK_SECONDS)  # what was being claimed just now is to be seen
    while wait and any(each.running for each in _living() if each.id in named):
        time.sleep(_LOOK_SECONDS)
    if as_json:
        _print([asdict(each) for each in _living() if each.id in named])


def revoke(
    prefix: Annotated[str, typer.Argument(help="The part of the key between its underscores, or the whole key.")],
    as_json: AsJson = False,
) -> None:
    """Take an API key back: from now on it opens nothing."""
    from control.accounts import revoke_key

    with _transaction() as session:
        revoke_key(session, prefix)
    if as_json:
        _print({"revoked": prefix_of(prefix)})


def _print(value: object) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def _living() -> "list[AtWork]":
    from db import workers

    with _transaction() as session:
        return workers.at_work(session, load_settings().lease_seconds)


@contextmanager
def _transaction() -> "Iterator[Session]":
    from db.session import Database

    database = Database(load_settings().database_url.get_secret_value(), connections=1)
    try:
        with database.transaction() as session:
            yield session
    finally:
        database.close()
