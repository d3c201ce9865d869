"""What commands that list things have in common: groups that list where no verb is given, and tables on any console.

Knows no command and no server.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import orjson
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

PIPED_WIDTH = 160  # columns where there is no terminal to ask

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class ListingGroup(TyperGroup):
    """A group whose `list` runs where no verb is named: `vlyard pools --json` is `vlyard pools list --json`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` before what begins with no command's name."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


def console() -> Console:
    """Standard output, as wide as its terminal, or wide enough to read where it is piped."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)  # names and messages are text, not markup


def show_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their titles, the first column always whole."""
    table = Table(*titles, box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    console().print(table)


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and what they stand for, a line each; what is empty is left out."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        if value:
            table.add_row(name, value)
    console().print(table)


def print_json(things: BaseModel | Sequence[BaseModel]) -> None:
    """Print one thing, or a list of them, as JSON."""
    plain = (
        things.model_dump(mode="json") if isinstance(things, BaseModel) else [t.model_dump(mode="json") for t in things]
    )
    print(orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode())


def time_text(at: datetime | None) -> str:
    """A moment in the user's own time zone; empty where there is none."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}" if at else ""
