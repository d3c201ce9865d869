"""A command for every kind of job, made from the table of kinds: the specification's fields are its options.

Knows no kind by name. What is common to all of them, `COMMON`, is said once, as a function's signature.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin
from uuid import UUID, uuid4

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from vlyard.cli.jobs import AsJson, follow, send_in, show
from vlyard.cli.options import collected, is_artefact, parameters, table
from vlyard.cli.results import fetch
from vlyard.cli.sending import located, refuse_folders, uploaded
from vlyard.client import Client
from vlyard.client.problems import invalid
from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.kinds import KINDS, Kind
from vlyard.jobs.ours import fields_set_by_us
from vlyard.jobs.repeating import option
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
    places = named_paths(kind, values)
    marks = {path: uuid4() for path in places}
    wanted = submission(kind, values, marks)  # refused before anything is uploaded, where it is wrong
    refuse_folders(wanted.spec, {mark: (path, places[path]) for path, mark in marks.items()})
    with Client() as client:
        job = send_in(client, submission(kind, values, uploaded(client, marks)))
        if not wait:
            show(job, as_json)
            return
        ended = follow(client, job.id, values["timeout"], as_json, result_only=True)
        if download is not None:
            fetch(client, ended, download)


def submission(kind: Kind, values: Mapping[str, Any], ids: Mapping[Path, UUID]) -> Submission:
    """What a command line asks for, with those ids for the paths that it names.

    Raises `InvalidInput` that names the options.
    """
    meant = dict(values)
    for name, field in _artefact_fields(kind):
        value = values.get(name)
        if isinstance(value, list | tuple):
            meant[name] = [_meant(each, field, option(name), ids) for each in value]
        elif value is not None:
            meant[name] = _meant(value, field, option(name), ids)
    facts = {name: values[name] for name in ("pool", "priority", "expires_in", "max_runtime")}
    spec = collected(kind.spec, {name: meant.get(name) for name in kind.spec.model_fields})
    try:
        return Submission(spec=spec, labels=table("label", values["label"] or []), **facts)
    except ValidationError as error:
        raise invalid(error, "The submission") from error


def named_paths(kind: Kind, values: Mapping[str, Any]) -> Mapping[Path, str]:
    """The files and folders that the options name instead of artefacts, and the option that names each."""
    places: dict[Path, str] = {}
    for name, field in _artefact_fields(kind):
        value = values.get(name)
        for text in value if isinstance(value, list | tuple) else () if value is None else (value,):
            if not _is_known(text, field):
                places.setdefault(located(text, option(name), fix=_FIX), option(name))
    return places


def _artefact_fields(kind: Kind) -> list[tuple[str, FieldInfo]]:
    return [(name, field) for name, field in kind.spec.model_fields.items() if is_artefact(field.annotation)]


def _meant(text: str, field: FieldInfo, where: str, ids: Mapping[Path, UUID]) -> str | UUID:
    return text if _is_known(text, field) else ids[located(text, where, fix=_FIX)]


def _is_known(text: str, field: FieldInfo) -> bool:
    """Whether the field takes the text as it is: an id, another job's output, or a model's name."""
    annotation: Any = field.annotation
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    elif field.metadata:
        annotation = Annotated[(annotation, *field.metadata)]
    try:
        TypeAdapter(annotation).validate_python(text)
    except ValidationError:
        return text.startswith(_REFERENCES)
    return True
