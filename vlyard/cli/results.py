"""What jobs brought back, as people read it: an answer's words and objects, figures, and the names of outputs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

from vlyard.cli.sending import transfer
from vlyard.client import Client
from vlyard.client.connection import checked_id
from vlyard.errors import InvalidInput
from vlyard.files import ArtefactKind
from vlyard.jobs.inference import Answer, Found, InferenceResult
from vlyard.jobs.spec import Reference, Result
from vlyard.jobs.view import Job


def show_result(result: Result, console: Console) -> None:
    """Print a result: what is said of its kind, then its outputs by name."""
    _SHOWN.get(type(result), _show_figures)(result, console)
    if result.artefacts:
        console.print(_pairs(result.artefacts.items()))


def named_artefact(text: str) -> UUID:
    """The artefact that a command line names: its id, or a `Reference` to the output of a job.

    Raises `InvalidInput`.
    """
    try:
        return Reference(text) if text.startswith("job:") else checked_id(text)
    except ValueError:
        raise InvalidInput(f"{text!r} names no output: write job:<job id>/<output>") from None


def output_of(client: Client, named: Reference) -> UUID:
    """The artefact that a job's output is.

    Raises `InvalidInput` where the job did not make it, and why the job failed where it did.
    """
    made = client.result(client.job(str(named.job))).artefacts
    if named.output not in made:
        there = ", ".join(made) or "none"
        raise InvalidInput(f"job {named.job} has no output {named.output!r}: its outputs are {there}")
    return made[named.output]


def fetch(client: Client, job: Job, folder: Path) -> None:
    """Write all outputs of a job that succeeded into a folder, which is made, and each under its own name."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for output, id in client.result(job).artefacts.items():
        artefact = client.artefact(id)
        name = f"{output}-{artefact.name}" if artefact.name in taken else artefact.name
        taken.add(name)
        target = folder / name
        if artefact.kind is ArtefactKind.TREE:
            target.mkdir(exist_ok=True)
        with transfer(name) as told:
            client.download(id, target, on_progress=told)


def _show_figures(result: Result, console: Console) -> None:
    facts = result.model_dump(mode="json", exclude={"artefacts"})
    console.print(_pairs((name.replace("_", " "), _said(value)) for name, value in facts.items()))


def _show_answers(result: InferenceResult, console: Console) -> None:
    for number, answer in enumerate(result.answers, start=1):
        if len(result.answers) > 1:
            console.print(f"answer {number}", style="bold")
        console.print(answer.text, soft_wrap=True)
        for note in answer.notes:
            console.print(f"note: {note}", style="dim")
        if answer.objects:
            console.print(_objects(answer))
    for refused in result.unanswered:
        console.print(f"no answer for {refused.image}: {refused.message} [{refused.code}]", style="yellow")


def _objects(answer: Answer) -> Table:
    """Every object with its place: in pixels where the picture is known, else in thousandths."""
    several = len(answer.pictures) > 1
    table = Table("OBJECT", "LABEL", *(["PICTURE"] if several else []), "PLACE", "FLAGS", box=None, pad_edge=False)
    for each in answer.objects:
        picture = [str("" if each.picture is None else each.picture)] if several else []
        table.add_row(each.type, _label(each), *picture, _place(each), ", ".join(each.flags))
    return table


def _label(found: Found) -> str:
    facts = found.model_dump(include={"label", "tag", "text"})
    return " ".join(str(value) for value in facts.values() if value)


def _place(found: Found) -> str:
    facts = found.model_dump(include={"bbox_pixels", "point_pixels", "bbox_2d", "point_2d"})
    for unit in ("pixels", "2d"):
        for name, value in facts.items():
            if value is not None and name.endswith(unit):
                return _numbers(value) + (" px" if unit == "pixels" else " of 1000")
    return ""


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_said(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return "" if value is None else str(value)


def _pairs(rows: Iterable[tuple[str, object]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        if str(value):
            table.add_row(name, str(value))
    return table


_SHOWN: Mapping[type[Result], Callable[[Any, Console], None]] = {InferenceResult: _show_answers}
