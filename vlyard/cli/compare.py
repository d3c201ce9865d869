"""`vlyard compare`: which pictures two evaluations answered differently."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from uuid import UUID

import typer

from vlyard.cli.listing import AsJson, print_json, show_facts, show_table
from vlyard.client import Client
from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.comparing import Change, Comparison, Standing, compare
from vlyard.jobs.evaluation import PICTURES, EvaluationResult

_FILE = "pictures.jsonl"
_WHAT = "An evaluation: its job's id, or the `pictures.jsonl` that it made, or the folder where that is."


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="compare")(compare_evaluations)


def compare_evaluations(
    before: Annotated[str, typer.Argument(help=_WHAT)],
    after: Annotated[str, typer.Argument(help="The one to set beside it, of the same dataset.")],
    limit: Annotated[int, typer.Option(min=1, help="How many pictures to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Set an evaluation beside another one: what was gained and lost, and in which pictures; --json lists all."""
    with TemporaryDirectory() as scratch:
        found = compare(_file(before, Path(scratch) / "a.jsonl"), _file(after, Path(scratch) / "b.jsonl"))
    if as_json:
        print_json(found)
        return
    show_facts(_facts(found))
    if found.changed:
        show_table(("PICTURE", "F1", "GAINED", "LOST", "FALSE", "MISSED"), map(_row, found.changed[:limit]))
    if len(found.changed) > limit:
        print(f"and {len(found.changed) - limit:,} more: --limit shows them, --json all")


def _file(named: str, target: Path) -> Path:
    """The lines of an evaluation that is named by a file, a folder or a job."""
    path = Path(named)
    if path.is_dir():
        path /= _FILE
    if path.is_file():
        return path
    try:
        id = UUID(named)
    except ValueError:
        what = "it is no job's id, and there is no such file"
        raise InvalidInput("There is no such evaluation", [Complaint(named, what, f"give a {_FILE}")]) from None
    with Client() as client:
        result = client.result(client.job(id))
        if not isinstance(result, EvaluationResult):
            fix = "give the id of an evaluation"
            raise InvalidInput("The job is no evaluation", [Complaint(named, "it measured nothing", fix)])
        return client.download(result.artefacts[PICTURES], target)


def _facts(found: Comparison) -> Iterator[tuple[str, str]]:
    yield "questions", f"{found.questions:,}, of which {len(found.changed):,} changed"
    yield "F1", f"{found.f1_before:.3f} -> {found.f1_after:.3f} ({found.f1_after - found.f1_before:+.3f})"
    for name in Standing.model_fields:
        yield name.replace("_", " "), f"{getattr(found.before, name):,} -> {getattr(found.after, name):,}"
    if found.other_truth:
        yield "other truth", f"{found.other_truth:,} questions are not measured against the same truth"
    yield "only before", _listed(found.only_before)
    yield "only after", _listed(found.only_after)


def _listed(pictures: Sequence[str]) -> str:
    return f"{len(pictures):,} pictures, such as {_plain(pictures[0])}" if pictures else ""


def _row(change: Change) -> Sequence[str]:
    gained, lost = (_plain(", ".join(each.label for each in those)) for those in (change.gained, change.lost))
    old, new = change.before, change.after
    return (
        _plain(change.picture),
        f"{old.f1:.2f} -> {new.f1:.2f}",
        gained,
        lost,
        f"{old.false_positives} -> {new.false_positives}",
        f"{old.false_negatives} -> {new.false_negatives}",
    )


def _plain(words: str) -> str:
    """Words of a data set, which may hold anything, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words)
