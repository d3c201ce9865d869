"""`vlyard models`: the versions of models, what they are called, where they come from, and their end."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.tree import Tree

from vlyard.cli.listing import AsJson, ListingGroup, console, print_json, show_facts, show_table, time_text
from vlyard.client import Client
from vlyard.lineage import Difference, Lineage, Piece, Step
from vlyard.models import Model

_group = typer.Typer(cls=ListingGroup, help="Versions of models; lists them where no verb is given.")

_Name = Annotated[str, typer.Argument(help="<team>/<name>:<version>, or <team>/<name>@<alias>.")]
_Alias = Annotated[str, typer.Argument(help="What it is to be called after the @, such as prod.")]


class _Shown(BaseModel):
    """A version with all that there is to tell of it."""

    model: Model
    lineage: Lineage


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.add_typer(_group, name="models")


@_group.command("list")
def list_models(
    limit: Annotated[int, typer.Option(min=1, help="How many to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the versions that your team may use, the youngest first. Say `--model` with one to ask it."""
    with Client() as client:
        found: Sequence[Model] = list(islice(client.models(), limit))
    if as_json:
        print_json(found)
        return
    titles = ("MODEL", "ALIASES", "BASE", "METHOD", "LOSS", "F1", "MADE", "BY JOB")
    show_table(titles, map(_row, found))


@_group.command("show")
def show_model(name: _Name, as_json: AsJson = False) -> None:
    """Show a version: what it is, what it was made of, and what was done with it."""
    with Client() as client:
        model = client.model(name)
        lineage = client.lineage(model.id)
    if as_json:
        print_json(_Shown(model=model, lineage=lineage))
        return
    show_facts(_facts(model))
    console().print()
    console().print(_tree(lineage))


@_group.command("alias")
def set_alias(name: _Name, alias: _Alias, as_json: AsJson = False) -> None:
    """Have an alias stand for a version from now on, whatever it stood for before."""
    with Client() as client:
        model = client.set_alias(name, alias)
    if as_json:
        print_json(model)
    else:
        print(f"{model.owned_by}/{model.name}@{alias} is {model.id}")


@_group.command("unalias")
def delete_alias(name: _Name, alias: _Alias, as_json: AsJson = False) -> None:
    """Forget an alias of a version."""
    with Client() as client:
        client.delete_alias(name, alias)
    print(json.dumps({"deleted": alias}) if as_json else f"{name} has no alias {alias} any more")


@_group.command("delete")
def delete_model(name: _Name, as_json: AsJson = False) -> None:
    """Delete a version with its weights; refused while a job, an alias or another version needs it."""
    with Client() as client:
        client.delete_model(name)
    print(json.dumps({"deleted": name}) if as_json else f"{name} is deleted")


@_group.command("compare")
def compare_models(left: _Name, right: _Name, as_json: AsJson = False) -> None:
    """Put two versions side by side: how they came to be, where that differs, and how well they did."""
    with Client() as client:
        found = client.compare_models(left, right)
    if as_json:
        print_json(found)
        return
    rows = [*_different("", found.manifest), *_different("spec.", found.spec)]
    if found.evaluation:
        rows += _measured(found.evaluation.left.figures, found.evaluation.right.figures)
    show_table(("", found.left.id, found.right.id), rows)


def _row(model: Model) -> Sequence[str]:
    scores = model.manifest.get("scores") or {}
    made = time_text(datetime.fromtimestamp(model.created, UTC))
    figures = (_figure(model.manifest.get("loss")), _figure(scores.get("f1")))
    aliases = " ".join(f"@{alias.rpartition('@')[2]}" for alias in model.aliases)
    method = str(model.manifest.get("method", ""))
    return (model.id, aliases, model.base, method, *figures, made, str(model.job or ""))


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""


# --- one version ----------------------------------------------------------------------------------------------


def _facts(model: Model) -> Iterator[tuple[str, str]]:
    yield "model", model.id
    yield "aliases", ", ".join(model.aliases)
    yield "base", model.base
    yield "made", time_text(datetime.fromtimestamp(model.created, UTC))
    yield "artefact", str(model.artefact)
    yield "shared", "with every team" if model.shared else ""


def _tree(lineage: Lineage) -> Tree:
    """What it was made of above, what was done with it below."""
    tree = Tree(lineage.id)
    before = tree.add("made of")
    before.add(f"base {lineage.base_model or lineage.base}")
    for step in (lineage.made_by, lineage.checked_by):
        if step:
            before.add(_step(step))
    if lineage.dataset:
        data = before.add(_piece(lineage.dataset))
        converted = data.add(_step(lineage.converted_by)) if lineage.converted_by else data
        for source in lineage.sources:
            converted.add(_piece(source))
    after = tree.add("used by" if lineage.uses else "used by nothing yet")
    for use in lineage.uses:
        after.add(_step(use))
    if lineage.next_cursor:
        after.add("and earlier ones")
    return tree


def _step(step: Step) -> str:
    figures = " ".join(f"{name} {value:.4g}" for name, value in step.figures.items())
    made = f"-> {step.model}" if step.model else ""
    return " ".join(filter(None, (step.kind, str(step.job), str(step.state), figures, made)))


def _piece(piece: Piece) -> str:
    return f"{piece.name} {piece.artefact} ({piece.bytes:,} bytes)"


# --- two versions ---------------------------------------------------------------------------------------------


def _different(within: str, found: Sequence[Difference]) -> Iterator[tuple[str, str, str]]:
    for each in found:
        yield f"{within}{each.field}", _value(each.left), _value(each.right)


def _measured(left: Mapping[str, float], right: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys((*left, *right)):
        yield f"evaluation.{name}", _value(left.get(name)), _value(right.get(name))


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
