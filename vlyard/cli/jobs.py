"""The commands that speak to a VLyard API about one job or file at a time. Knows no server."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from vlyard.cli import pipeline
from vlyard.cli.reading import read_submission
from vlyard.cli.results import named_artefact, output_of, show_result
from vlyard.cli.sending import LocalFiles, transfer
from vlyard.client import Client
from vlyard.client.connection import checked_id
from vlyard.client.problems import invalid
from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.changing import changed
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.repeating import Form, repeated
from vlyard.jobs.spec import Reference, Spec
from vlyard.jobs.state import State
from vlyard.jobs.view import Artefact, Changes, Job, Submission

PIPED_WIDTH = 160  # columns where there is no terminal to ask
STYLES = {State.SUCCEEDED: "green", State.FAILED: "red", State.CANCELLED: "yellow", State.RUNNING: "cyan"}

JobId = Annotated[UUID, typer.Argument(metavar="ID", help="The job's id.", parser=checked_id)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    for command in (submit, pipeline.run, jobs, job, wait, cancel, retry, clone, upload, download):
        app.command()(command)


def submit(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A JSON or YAML file, or - for standard input.")],
    pool: Annotated[
        str | None, typer.Option(help="The pool of workers that shall run it, instead of the file's or `default`.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="-100 to 100; higher goes first among your team's jobs.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended; fail if it fails.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job that a file describes: its kind, and the kind's own fields."""
    wanted, files = read_submission(spec, {"pool": pool, "priority": priority})
    with Client() as client:
        submitted = send_in(client, files.sent(client, wanted))
        if wait:
            follow(client, submitted.id, None, as_json)
        else:
            show(submitted, as_json)


def send_in(client: Client, wanted: Submission) -> Job:
    """Submit what was asked for."""
    return client.submit(
        wanted.spec,
        pool=wanted.pool,
        priority=wanted.priority,
        labels=wanted.labels,
        expires_at=wanted.expires_at,
        expires_in=wanted.expires_in,
        max_runtime=wanted.max_runtime,
    )


def jobs(
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="Only jobs of this kind.", autocompletion=lambda: list(KINDS))
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List your team's jobs, the youngest first. With --json, one job a line."""
    with Client() as client:
        found = islice(client.jobs(state, kind), limit)
        if as_json:
            for each in found:
                print(each.model_dump_json())
        else:
            _console().print(_listing(found))


def job(
    id: JobId,
    repeat: Annotated[
        Form | None, typer.Option(help="Print what repeats it instead: a command line, a pipeline, a program.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a job: its state, its attempts, its result or error."""
    with Client() as client:
        found = client.job(id)
    if repeat is None:
        show(found, as_json)
    else:
        text = repeated(found, repeat)
        print(json.dumps({"form": repeat, "text": text}) if as_json else text.rstrip())


def wait(
    id: JobId,
    timeout: Annotated[float | None, typer.Option(min=0, help="Give up after so many seconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a job has ended, and show it; fail if it did."""
    with Client() as client:
        follow(client, id, timeout, as_json)


def cancel(id: JobId, as_json: AsJson = False) -> None:
    """Ask for a job to be stopped."""
    with Client() as client:
        show(client.cancel(id), as_json)


def retry(id: JobId, as_json: AsJson = False) -> None:
    """Submit an ended job once more, as it was."""
    with Client() as client:
        show(client.retry(id), as_json)


def clone(
    id: JobId,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A change, such as spec.prompt=Why?, spec.image=file:a.png, priority=7; repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job once more, with changes."""
    wanted = read_changes(changes or [])
    with Client() as client:
        show(client.clone(id, _with_artefacts(client, id, wanted)), as_json)


def _with_artefacts(client: Client, id: UUID, wanted: Changes) -> Changes:
    """The changes, with the artefacts that files and folders of this machine have become."""
    written = wanted.model_dump(mode="json", exclude_unset=True)
    files = LocalFiles(written, lambda _, text: (text, "paths are relative to where you are"))

    def specs(changes: Changes) -> Iterator[Spec]:
        yield changed(client.job(id).model_dump(mode="json")["spec"], changes.spec)

    return files.sent(client, files.checked(Changes.model_validate, specs))


def read_changes(texts: Iterable[str]) -> Changes:
    """Read changes of the form `path.to.field=value`."""
    patch: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        *folders, field = path.split(".")
        if not equals or not field:
            complaint = Complaint(f"--set {text}", "it is no change", "write it as spec.prompt=Why?")
            raise InvalidInput("the changes are not valid", [complaint])
        place = patch
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise InvalidInput(f"--set {text}: {folder} was set to a value already")
        place[field] = _value(value)
    try:
        return Changes.model_validate(patch)
    except ValidationError as error:
        raise invalid(error, "the change") from error


def _value(text: str) -> Any:
    """What a text means: JSON where it is JSON, else itself."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def upload(
    path: Annotated[Path, typer.Argument(help="The file or folder to store.")],
    name: Annotated[str | None, typer.Option(help="Its name as an artefact, instead of its own.")] = None,
    tree: Annotated[
        bool, typer.Option("--tree", help="It is a folder: store all files in it as one artefact.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Store a file or a folder as an artefact, and print its id. Run again, it goes on where it was stopped."""
    with Client() as client, transfer(path.name, quiet=as_json) as told:
        stored = (
            client.upload_tree(path, name, on_progress=told) if tree else client.upload(path, name, on_progress=told)
        )
    show(stored, as_json)


def download(
    artefact: Annotated[
        UUID, typer.Argument(metavar="ARTEFACT", help="Its id, or job:<job id>/<output>.", parser=named_artefact)
    ],
    path: Annotated[
        str, typer.Argument(help="The file or folder to write, or the folder to put it in; with a / it is made.")
    ] = ".",
    as_zip: Annotated[bool, typer.Option("--zip", help="Fetch a tree as one zip.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch an artefact's content, checked against its SHA-256. Run again, it fetches what is missing of a tree."""
    with Client() as client:
        id = output_of(client, artefact) if isinstance(artefact, Reference) else artefact
        with transfer(client.artefact(id).name, quiet=as_json) as told:
            written = client.download(id, path, as_zip=as_zip, on_progress=told)
    print(json.dumps({"path": str(written)}) if as_json else written)


# --- showing --------------------------------------------------------------------------------------------------


def _console() -> Console:
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)  # what a job says is text, not markup


def follow(client: Client, id: UUID, timeout: float | None, as_json: bool, *, result_only: bool = False) -> Job:
    """Wait for a job's end with its progress on stderr, show it or what it brought, and raise where it failed."""
    with goes_on(id), _drawing(quiet=as_json) as draw:
        ended = client.wait(id, timeout=timeout, on_progress=draw)
    if as_json or not (result_only and ended.state is State.SUCCEEDED):
        show(ended, as_json)
    result = client.result(ended)  # a job that failed fails the command
    if result_only and not as_json:
        show_result(result, _console())
    if not as_json:
        said = f"to repeat it: vlyard job {id} --repeat cli|yaml|python"
        Console(stderr=True, highlight=False).print(said, style="dim", markup=False, soft_wrap=True)
    return ended


@contextmanager
def goes_on(id: UUID) -> Iterator[None]:
    """Says after Ctrl-C that the job goes on, and how to look at it."""
    try:
        yield
    except KeyboardInterrupt:
        said = f"job {id} goes on: `vlyard watch {id}` follows it, `vlyard cancel {id}` stops it"
        print(f"\n{said}", file=sys.stderr)
        raise


@contextmanager
def _drawing(*, quiet: bool) -> Iterator[Callable[[Job], None]]:
    """How far a job is, as a bar on stderr where somebody looks at it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        bar = bars.add_task("", total=None)

        def draw(now: Job) -> None:
            done = now.progress.fraction if now.progress else None
            text = f"{now.state} {now.progress.text if now.progress else ''}".rstrip()
            bars.update(bar, description=text, total=None if done is None else 1.0, completed=done or 0.0)

        yield draw


def _listing(found: Iterable[Job]) -> Table:
    table = Table("ID", "KIND", "STATE", "POOL", "PROGRESS", "CREATED", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for each in found:
        said = _progress(each) or (each.error.message if each.error else "")
        style = STYLES.get(each.state, "")
        table.add_row(str(each.id), each.kind, each.state, each.pool, said, _time(each.created_at), style=style)
    return table


def show(thing: Job | Artefact, as_json: bool) -> None:
    """Print a job or an artefact."""
    if as_json:
        print(thing.model_dump_json(indent=2))
        return
    table = Table.grid(padding=(0, 2))
    for name, value in _job_rows(thing) if isinstance(thing, Job) else _artefact_rows(thing):
        if value:
            table.add_row(name, value)
    _console().print(table)


def _job_rows(job: Job) -> Iterable[tuple[str, str]]:
    yield "job", str(job.id)
    yield "kind", job.kind
    yield "state", f"{job.state} (asked to stop)" if job.cancel_requested else job.state
    yield "pool", f"{job.pool}, priority {job.priority}" if job.priority else job.pool
    yield "labels", ", ".join(f"{key}: {value}" for key, value in job.labels.items())
    yield "clone of", str(job.cloned_from or "")
    yield "progress", _progress(job)
    for name, at in (("created", job.created_at), ("started", job.started_at), ("finished", job.finished_at)):
        yield name, _time(at)
    for attempt in job.attempts:
        why = f": {attempt.error.message}" if attempt.error else ""
        yield f"attempt {attempt.number}", f"{attempt.outcome or 'running'} on {attempt.worker}{why}"
    if job.error:
        yield "error", "\n".join([f"{job.error.message} [{job.error.code}]", *map(str, job.error.complaints)])
    if job.result is not None:
        yield "result", json.dumps(job.result, indent=2, ensure_ascii=False)


def _artefact_rows(artefact: Artefact) -> Iterable[tuple[str, str]]:
    yield "artefact", str(artefact.id)
    yield "kind", artefact.kind
    yield "name", artefact.name
    yield "type", artefact.media_type
    yield "bytes", f"{artefact.bytes:,}"
    yield "sha256", artefact.sha256
    yield "state", artefact.state


def _progress(job: Job) -> str:
    if job.progress is None:
        return ""
    percent = "" if job.progress.fraction is None else f"{job.progress.fraction:.0%} "
    return percent + job.progress.text


def _time(at: datetime | None) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}" if at else ""
