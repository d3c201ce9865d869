"""`vlyard demo`: a whole stack for a minute, used only through the public client.

A folder of YOLO labels becomes a grounding dataset, and a picture an answer: two jobs, which Flower has to show.
"""

import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from control.stack.roles import Doors, start_roles
from control.stack.screen import doors_table, interruptible, open_console
from control.stack.stack import Stack
from vlyard import (
    BoxFound,
    Client,
    ConversionResult,
    ConversionSpec,
    InferenceResult,
    InferenceSpec,
    Job,
    Result,
    Spec,
)
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import InvalidInput, Unavailable
from vlyard.formats.archive import pack
from vlyard.formats.picture import SUFFIXES
from vlyard.jobs.conversion import DEFAULT_PROMPT

_PICTURES, _SEED = 24, 7  # of the dataset that is drawn where none is given
_FLOWER_SECONDS = 15  # its events take a moment
_PATIENCE = 600  # seconds for one job


@dataclass(frozen=True)
class _Done:
    """A job that has succeeded, and what it brought."""

    job: Job
    result: Result
    files: tuple[Path, ...]


def demo(
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your folder of pictures and YOLO labels.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where the results are put.")] = Path("demo-output"),
) -> None:
    """Start everything, convert a dataset, ask a model about a picture, show both in Flower, and stop everything."""
    with interruptible(), tempfile.TemporaryDirectory(prefix="vlyard-demo-") as scratch, _bars() as bars:
        _run(data, output, Path(scratch), bars)


def _run(data: Path | None, output: Path, scratch: Path, bars: Progress) -> None:
    starting = bars.add_task("starting the servers and the workers", total=None)
    stack = Stack(scratch / "stack", say=lambda line: bars.console.print(line, style="dim", markup=False))
    with stack, _logs_kept(scratch / "stack" / "logs", output):
        doors = start_roles(stack)
        bars.update(starting, total=1, completed=1)
        bars.console.print(doors_table(doors, stack.folder.path))
        done = _run_jobs(doors, data or _drawn(scratch / "shapes"), scratch, output, bars)
        _check_flower(doors, done)
        bars.console.print(_results(done))
        stopping = bars.add_task("stopping everything", total=None)
    bars.update(stopping, total=1, completed=1)


def _bars() -> Progress:
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=open_console())


def _logs_kept(logs: Path, output: Path) -> ExitStack:
    """A block whose failure leaves the logs in the output folder, because the stack's own folder goes."""

    def keep(kind: object, *_: object) -> None:
        if kind is not None and logs.is_dir():
            shutil.copytree(logs, output / "logs", dirs_exist_ok=True)

    block = ExitStack()
    block.push(keep)
    return block


def _drawn(folder: Path) -> Path:
    draw_dataset(folder, _PICTURES, _SEED)
    return folder


def _run_jobs(doors: Doors, data: Path, scratch: Path, output: Path, bars: Progress) -> list[_Done]:
    archive = scratch / "dataset.zip"
    pack(data, archive)
    picture = _a_picture(data)
    with Client(doors.api, doors.key) as client:
        source, image = client.upload(archive), client.upload(picture)
        specs: tuple[Spec, ...] = (
            ConversionSpec(source=source.id),
            InferenceSpec(image=image.id, prompt=DEFAULT_PROMPT, seed=_SEED),
        )
        return [_run_job(client, spec, output, bars) for spec in specs]


def _a_picture(folder: Path) -> Path:
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise InvalidInput(f"{folder} holds no picture")
    return pictures[0]


def _run_job(client: Client, spec: Spec, output: Path, bars: Progress) -> _Done:
    job = client.submit(spec)
    bar = bars.add_task(job.kind, total=None)
    job = client.wait(job.id, timeout=_PATIENCE, on_progress=lambda job: _show(bars, bar, job))
    result = client.result(job)
    target = output / job.kind
    target.mkdir(parents=True, exist_ok=True)
    files = tuple(client.download(artefact, target) for artefact in result.artefacts.values())
    bars.update(bar, description=f"{job.kind}: {job.state}", total=1, completed=1)
    return _Done(job, result, files)


def _show(bars: Progress, bar: TaskID, job: Job) -> None:
    progress = job.progress
    fraction = progress.fraction if progress else None
    text = progress.text if progress else ""
    bars.update(bar, description=f"{job.kind}: {job.state} {text}", total=fraction and 1, completed=fraction or 0)


def _check_flower(doors: Doors, done: list[_Done]) -> None:
    """Raises `Unavailable` where Flower does not come to show a task of every job."""
    missing = {str(item.job.id) for item in done}
    deadline = time.monotonic() + _FLOWER_SECONDS
    with httpx.Client(auth=(doors.flower_user, doors.flower_password), timeout=5, trust_env=False) as flower:
        while missing and time.monotonic() < deadline:
            shown = flower.get(f"{doors.flower}/api/tasks").raise_for_status().json()
            missing = {job for job in missing if not any(job in task for task in shown)}
            time.sleep(0.2)
    if missing:
        raise Unavailable(f"Flower at {doors.flower} does not show the tasks of the jobs {', '.join(sorted(missing))}")


def _results(done: list[_Done]) -> Table:
    table = Table(title="What was done")
    for column in ("job", "state", "seconds", "outcome", "files"):
        table.add_column(column, overflow="fold")
    for item in done:
        files = "\n".join(map(str, item.files))
        table.add_row(item.job.kind, item.job.state, _seconds(item.job), _outcome(item.result), files)
    return table


def _seconds(job: Job) -> str:
    if job.started_at is None or job.finished_at is None:
        return ""
    return f"{(job.finished_at - job.started_at).total_seconds():.1f}"


def _outcome(result: Result) -> str:
    match result:
        case ConversionResult():
            return f"{result.samples} samples with {result.boxes} boxes of {len(result.classes)} classes"
        case InferenceResult():
            boxes = [found for found in result.objects if isinstance(found, BoxFound)]
            return ", ".join(f"{found.label} at {found.bbox_2d}" for found in boxes) or result.text
        case _:
            return ""
