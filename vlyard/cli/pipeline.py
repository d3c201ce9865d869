"""`vlyard run`: a file of jobs that feed each other, submitted as one batch and followed to their ends."""

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from vlyard.cli.reading import files_beside, read, refused
from vlyard.client import Client
from vlyard.errors import Cancelled, Complaint, InvalidInput, JobFailed
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Batch, Entry, Job

LOOK = 1.0  # seconds that one look at a job waits for its end
_AT_A_LOOK = 16  # jobs
PIPED_WIDTH = 160  # columns where there is no terminal to ask
STYLES = {State.SUCCEEDED: "green", State.FAILED: "red", State.CANCELLED: "yellow", State.RUNNING: "cyan"}


def run(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="A YAML or JSON file, or - for standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, one job a line.")] = False,
) -> None:
    """Run the jobs of a file, each as soon as what it needs is there; fail if any of them fails."""
    data, where = read(pipeline)
    _expect_jobs(data, where)
    files = files_beside(pipeline, data, where)
    batch = files.checked(lambda written: _checked(written, where), lambda batch: (each.spec for each in batch.jobs))
    with Client() as client:
        batch = files.sent(client, batch)
        ended = followed(client, batch.jobs)
    if as_json:
        for job in ended:
            print(job.model_dump_json())
    else:
        _console(stderr=False).print(_table(batch.jobs, ended))
    fail_if_any_did(ended)


def followed(client: Client, entries: Sequence[Entry]) -> Sequence[Job]:
    """Submit jobs that feed each other, and show how far they are until all have ended; returns them then."""
    submitted = client.submit_many(entries)
    try:
        return _follow(client, entries, submitted)
    except KeyboardInterrupt:
        print("\nthe jobs go on: `vlyard jobs` lists them, `vlyard watch ID` follows one", file=sys.stderr)
        raise


def _expect_jobs(data: object, where: str) -> None:
    if not isinstance(data, Mapping) or not isinstance(data.get("jobs"), list):
        lone = isinstance(data, Mapping) and "kind" in data
        fix = (
            f"submit this one job with: vlyard submit {where}" if lone else "write `jobs:`, and below it `- spec:` each"
        )
        raise InvalidInput(f"{where} is no pipeline", [Complaint("/jobs", "there is no list of jobs", fix)])


def _checked(data: object, where: str) -> Batch:
    try:
        return Batch.model_validate(data)
    except ValidationError as error:
        raise refused(error, where) from error


def _follow(client: Client, entries: Sequence[Entry], jobs: Sequence[Job]) -> Sequence[Job]:
    """The jobs once all have ended; meanwhile a table on the terminal says how far each is."""
    now: dict[UUID, Job] = {job.id: job for job in jobs}
    console = _console(stderr=True)
    with Live(_table(entries, jobs), console=console, transient=True, auto_refresh=console.is_terminal) as live:
        line = deque(now)
        while line := deque(job for job in line if now[job].state not in TERMINAL):
            for at in range(min(len(line), _AT_A_LOOK)):  # the next ones each time: a pipeline may have a thousand
                now[line[0]] = client.job(line[0], wait=0 if at else LOOK)
                line.rotate(-1)
            live.update(_table(entries, list(now.values())))
    return list(now.values())


def _table(entries: Sequence[Entry], jobs: Sequence[Job]) -> Table:
    table = Table("NAME", "KIND", "STATE", "PROGRESS", "ID", box=None, pad_edge=False)
    table.columns[-1].no_wrap = True
    for entry, job in zip(entries, jobs, strict=True):
        said = job.error.message if job.error else job.progress.text if job.progress else ""
        table.add_row(entry.name or "", job.kind, job.state, said, str(job.id), style=STYLES.get(job.state, ""))
    return table


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def fail_if_any_did(ended: Sequence[Job]) -> None:
    """Raise `JobFailed`, or `Cancelled` where that is all, with what each job said that did not succeed."""
    bad = [job for job in ended if job.state is not State.SUCCEEDED]
    if bad:
        kind = Cancelled if all(job.state is State.CANCELLED for job in bad) else JobFailed
        said = [Complaint(f"job {job.id}", job.error.message if job.error else f"it is {job.state}") for job in bad]
        raise kind(f"{len(bad)} of {len(ended)} jobs did not succeed", said)
