"""`vlyard models`: the versions of the team's models, and how to ask for one."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer

from vlyard.cli.listing import AsJson, print_json, show_table, time_text
from vlyard.client import Client
from vlyard.models import Model


def register(app: typer.Typer) -> None:
    """Add the command of this file to the command line."""
    app.command()(models)


def models(
    limit: Annotated[int, typer.Option(min=1, help="How many to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the versions of your team's models, the youngest first. Say `--model` with one to ask it."""
    with Client() as client:
        found: Sequence[Model] = list(islice(client.models(), limit))
    if as_json:
        print_json(found)
        return
    titles = ("MODEL", "BASE", "METHOD", "LOSS", "F1", "MADE", "BY JOB")
    show_table(titles, map(_row, found))


def _row(model: Model) -> Sequence[str]:
    scores = model.manifest.get("scores") or {}
    made = time_text(datetime.fromtimestamp(model.created, UTC))
    figures = (_figure(model.manifest.get("loss")), _figure(scores.get("f1")))
    return (model.id, model.base, str(model.manifest.get("method", "")), *figures, made, str(model.job or ""))


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""
