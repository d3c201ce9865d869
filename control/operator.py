"""Commands for whoever runs the machines: workers, drain, revoke. They speak to the database, and need no API key.

Each imports what it runs when it runs, because every `vlyard` command reads this file.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from control.settings import load_settings
from vlyard.errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.workers import AtWork

_LOOK_SECONDS = 1.0
_PIPED_WIDTH = 160  # columns where there is no terminal to ask


def workers() -> None:
    """List the living workers: what they run, how much of it, and whether they are draining."""
    from rich.console import Console
    from rich.table import Table

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
) -> None:
    """Give a worker no more jobs; what it runs goes on to its end."""
    from db import workers

    named = {each.id for each in _living() if each.name == name}
    if not named:
        raise InvalidInput(f"there is no living worker {name!r}: `vlyard workers` lists them")
    with _transaction() as session:
        for worker in named:
            workers.drain(session, worker, draining=not undo)
    while wait and any(each.running for each in _living() if each.id in named):
        time.sleep(_LOOK_SECONDS)


def revoke(
    prefix: Annotated[str, typer.Argument(help="The part of the key between its underscores, or the whole key.")],
) -> None:
    """Take an API key back: from now on it opens nothing."""
    from control.accounts import revoke_key

    with _transaction() as session:
        revoke_key(session, prefix)


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
