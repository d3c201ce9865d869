"""A command for every kind of job, made from the table of kinds: the specification's fields are its options.

Knows no kind by name. What is common to all of them, `COMMON`, is said once, as a function's signature.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from vlyard.cli.jobs import AsJson, follow, send_in, show
from vlyard.cli.options import given, is_artefact, is_nested, parameters, table, validated
from vlyard.cli.results import fetch
from vlyard.cli.sending import FILE, LocalFiles
from vlyard.client import Client
from vlyard.client.problems import invalid
from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.kinds import KINDS, Kind
from vlyard.jobs.ours import fields_set_by_us
from vlyard.jobs.repeating import option
from vlyard.jobs.spec import NoArtefact
from vlyard.jobs.view import Submission

_REFERENCES = ("job:", "ref:")
_FIX = "give a path here, an artefact's id, or job:<job id>/<output>"


def register(app: typer.Typer) -> None:
    """Add a command for each kind to the command line."""
    for kind in KINDS.values():
        app.command(kind.name)(_command(kind))


def _common(
    *,
    pool: Annotated[str, typer.Option(help="The pool of workers that shall run it.")] = "default",
    priority: Annotated[int, typer.Option(help="-100 to 100; higher goes first among your team's jobs.")] = 0,
    label: Annotated[list[str], typer.Option(help="A name and value of your own, as KEY=VALUE. Repeatable.")] = [],  # noqa: B006
    expires_in: Annotated[
        float | None, typer.Option(help="Fail it where it was not started within so many seconds.")
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="The same by a time with its zone, such as 2026-01-31T18:00:00+01:00.")
    ] = None,
    max_runtime: Annotated[float | None, typer.Option(help="Seconds that an attempt may run.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for its end and show what it brought.")] = True,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Wait no longer than so many seconds; the job goes on.")
    ] = None,
    download: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Fetch its outputs into this folder, which is made.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What the commands of all kinds have in common: how the job is submitted, and followed."""


COMMON = tuple(inspect.signature(_common).parameters.values())


def _command(kind: Kind) -> Callable[..., None]:
    everything = [*parameters(kind.spec, "kind", *fields_set_by_us(kind.spec)), *COMMON]

    def command(**values: Any) -> None:
        _run(kind, values)

    said = (sys.modules[kind.spec.__module__].__doc__ or kind.name).split("\n\n")[0]
    command.__doc__ = f"{said} Administrators only." if kind.admin_only else said
    return taking(command, everything)


def taking(command: Callable[..., None], options: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """The command with these options: typer reads a function's signature and annotations."""
    vars(command)["__signature__"] = inspect.Signature(options)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in options}
    return command


def _run(kind: Kind, values: Mapping[str, Any]) -> None:
    wait, download, as_json = values["wait"], values["download"], values["as_json"]
    if download is not None and (not wait or (download.exists() and not download.is_dir())):
        what = f"{download} is no folder" if wait else "nothing is there to fetch before the end: leave out --no-wait"
        raise InvalidInput("The options do not fit", [Complaint("--download", what)])
    wanted, files = submission(kind, values)  # refused before anything is uploaded, where it is wrong
    with Client() as client:
        job = send_in(client, files.sent(client, wanted))
        if not wait:
            show(job, as_json)
            return
        ended = follow(client, job.id, values["timeout"], as_json, result_only=True)
        if download is not None:
            fetch(client, ended, download)


def submission(kind: Kind, values: Mapping[str, Any]) -> tuple[Submission, LocalFiles]:
    """What a command line asks for, with ids in the place of the files that it names, which are there.

    Raises `InvalidInput` that names the options.
    """
    fields = given(kind.spec, {name: values.get(name) for name in kind.spec.model_fields})
    naming = {
        name: _named(value, kind.spec.model_fields[name])
        for name, value in fields.items()
        if is_artefact(kind.spec.model_fields[name].annotation) or is_nested(kind.spec.model_fields[name].annotation)
    }
    facts = {name: values[name] for name in ("pool", "priority", "expires_in", "expires_at", "max_runtime")}
    facts["labels"] = table("label", values["label"] or [])

    def told(pointer: str, text: str) -> tuple[str, str]:
        name = pointer.split("/")[1]
        return option(name), _fault(text.removeprefix(FILE), kind.spec.model_fields[name]) or _FIX

    def check(named: Mapping[str, Any]) -> Submission:
        try:
            return Submission(spec=validated(kind.spec, {**fields, **named}), **facts)
        except ValidationError as error:
            raise invalid(error, "The submission") from error

    files = LocalFiles(naming, told)
    return files.checked(check, lambda wanted: [wanted.spec]), files


def _named(value: Any, field: FieldInfo) -> Any:
    """The option's value with each path in it marked as one, where it takes artefacts."""
    if is_nested(field.annotation):
        return value  # where nothing but `file:` tells a path from a text
    if isinstance(value, list | tuple):
        return [_named(each, field) for each in value]
    return FILE + value if _fault(value, field) is not None and not value.startswith((*_REFERENCES, FILE)) else value


def _fault(text: str, field: FieldInfo) -> str | None:
    """Why a text is neither an id, nor another job's output, nor a model's name, as the field takes it, or takes each.

    None where it is one; empty where there is no more to say.
    """
    annotation: Any = field.annotation
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    elif field.metadata:
        annotation = Annotated[(annotation, *field.metadata)]
    try:
        TypeAdapter(annotation).validate_python(text)
    except ValidationError as error:
        reason = error.errors()[0].get("ctx", {}).get("error")
        return str(reason) if reason and not isinstance(reason, NoArtefact) else ""
    return None
