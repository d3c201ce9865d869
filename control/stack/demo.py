"""`vlyard demo`: a whole stack for some minutes, used only through the public client.

A folder of YOLO labels becomes a grounding dataset, a model that knows nothing learns from it, is measured on pictures
that it has not seen, is asked about one of them, and leaves: six jobs, which Flower has to show. In the end plain
transformers has to get the same answer, word for word, from the folder that left.
"""

import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from uuid import UUID

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table

from control.stack.opening import answer_of, code_of, expect_same
from control.stack.roles import Doors, start_roles
from control.stack.screen import doors_table, interruptible, open_console
from control.stack.stack import Stack
from vlyard import (
    BoxFound,
    Client,
    ConversionResult,
    ConversionSpec,
    EvaluationResult,
    EvaluationSpec,
    ExportResult,
    ExportSpec,
    InferenceResult,
    InferenceSpec,
    Job,
    Result,
    Spec,
    TrainingCheckResult,
    TrainingCheckSpec,
    TrainingResult,
    TrainingSpec,
)
from vlyard.cli.listing import AsJson
from vlyard.demo.shapes import CLASSES, draw_splits
from vlyard.errors import InvalidInput, Unavailable
from vlyard.files import ArtefactKind
from vlyard.formats.archive import pack
from vlyard.formats.picture import SUFFIXES
from vlyard.jobs.conversion import DEFAULT_PROMPT

PICTURES, SEED = (2_000, 128), 7  # to learn from, and to be measured on, of the dataset that is drawn
SIDE = 128  # pixels
# What is drawn differs by colour and form; telling forms apart takes a model of this size ten minutes more.
BY_COLOUR = {name: f"{name.partition(' ')[0]} shape" for name in CLASSES}
STEPS = 1_000  # enough to find shapes; some minutes on one core
_HOLD_OUT = 0.1  # of somebody's own pictures, where they have no split of their own
_BASE = "untrained"
_FLOWER_SECONDS = 15  # its events take a moment
_PATIENCE = 1_800  # seconds for one job


@dataclass(frozen=True)
class _Wish:
    """What somebody wants to see."""

    data: Path | None  # a folder of YOLO labels; None: one is drawn
    output: Path
    steps: int


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
    steps: Annotated[
        int, typer.Option(min=1, help="How long the model learns; fewer are faster, and teach less.")
    ] = STEPS,
    as_json: AsJson = False,
) -> None:
    """Start everything; convert a dataset, check, train, measure, ask and export a model; open it; stop everything."""
    bars = _bars(open_console(stderr=as_json))
    with interruptible(), tempfile.TemporaryDirectory(prefix="vlyard-demo-") as scratch, bars:
        done = _run(_Wish(data, output, steps), Path(scratch), bars)
    for item in done if as_json else ():
        typer.echo(item.job.model_dump_json())


def _run(wish: _Wish, scratch: Path, bars: Progress) -> list[_Done]:
    """The jobs, all of which have succeeded."""
    starting = bars.add_task("starting the servers and the workers", total=None)
    stack = Stack(scratch / "stack", say=lambda line: bars.console.print(line, style="dim", markup=False))
    with stack, _logs_kept(scratch / "stack" / "logs", wish.output):
        doors = start_roles(stack)
        bars.update(starting, total=1, completed=1)
        bars.console.print(doors_table(doors, stack.folder.path))
        done, picture = _run_jobs(doors, wish, scratch, bars)
        _check_flower(doors, done)
        bars.console.print(_results(done))
        _open_export(wish.output / "export" / "model", picture, done, bars)
        stopping = bars.add_task("stopping everything", total=None)
    bars.update(stopping, total=1, completed=1)
    return done


def _bars(console: Console) -> Progress:
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _logs_kept(logs: Path, output: Path) -> ExitStack:
    """A block whose failure leaves the logs in the output folder, because the stack's own folder goes."""

    def keep(kind: object, *_: object) -> None:
        if kind is not None and logs.is_dir():
            shutil.copytree(logs, output / "logs", dirs_exist_ok=True)

    block = ExitStack()
    block.push(keep)
    return block


def _drawn(folder: Path) -> Path:
    draw_splits(folder, *PICTURES, SEED, side=SIDE)
    return folder


def _run_jobs(doors: Doors, wish: _Wish, scratch: Path, bars: Progress) -> tuple[list[_Done], Path]:
    """The jobs, and the picture that the model was asked about."""
    data = wish.data or _drawn(scratch / "shapes")
    archive = scratch / "dataset.zip"
    pack(data, archive)
    picture = _kept(_a_picture(data), wish.output)
    done: list[_Done] = []

    def run(spec: Spec) -> Result:
        done.append(_run_job(client, spec, wish.output, bars))
        return done[-1].result

    with Client(doors.api, doors.key) as client:
        source, image = client.upload(archive), client.upload(picture)
        rename = {} if wish.data else BY_COLOUR
        dataset = run(ConversionSpec(source=source.id, hold_out=_HOLD_OUT, rename=rename)).artefacts["dataset"]
        run(TrainingCheckSpec(dataset=dataset, model=_BASE))
        model = run(training_of(dataset, wish.steps)).artefacts["model"]
        run(EvaluationSpec(dataset=dataset, splits=("val",), model=model, limit=PICTURES[1]))
        run(InferenceSpec(image=image.id, prompt=DEFAULT_PROMPT, model=model, do_sample=False, max_new_tokens=1024))
        run(ExportSpec(model=model, name="shapes-whole", dataset=dataset))
    return done, picture


def training_of(dataset: UUID, steps: int) -> TrainingSpec:
    """From random weights to a model that finds things: everything learns, at a rate for small models."""
    return TrainingSpec(
        dataset=dataset,
        model=_BASE,
        name="shapes",
        method="full",
        parts=("language", "merger", "vision"),
        precision="fp32",
        gradient_checkpointing=False,
        max_steps=steps,
        micro_batch=16,
        accumulation=1,
        learning_rate=2e-3,
        schedule="warmup_stable_decay",
        warmup=0.05,
        decay=0.3,
        weight_decay=0.01,
        beta2=0.99,
        checkpoint_steps=max(1, steps // 2),
    )


def _a_picture(folder: Path) -> Path:
    """One of a held-out split where the folder's names tell, else the last one."""
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise InvalidInput(f"{folder} holds no picture")
    return next((path for path in pictures if "val" in path.relative_to(folder).parts), pictures[-1])


def _kept(picture: Path, output: Path) -> Path:
    """A copy that is there when the demo has ended, for the lines that it prints."""
    output.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(picture, output / f"picture{picture.suffix.lower()}"))


def _run_job(client: Client, spec: Spec, output: Path, bars: Progress) -> _Done:
    job = client.submit(spec)
    bar = bars.add_task(job.kind, total=None)
    job = client.wait(job.id, timeout=_PATIENCE, on_progress=lambda job: _show(bars, bar, job))
    result = client.result(job)
    target = output / job.kind
    target.mkdir(parents=True, exist_ok=True)
    files = tuple(_fetch(client, name, artefact, target) for name, artefact in result.artefacts.items())
    bars.update(bar, description=f"{job.kind}: {job.state}", total=1, completed=1)
    return _Done(job, result, files)


def _fetch(client: Client, name: str, artefact: UUID, target: Path) -> Path:
    """A file under its own name, a tree as a folder with its output's."""
    if client.artefact(artefact).kind is not ArtefactKind.TREE:
        return client.download(artefact, target)
    folder = target / name
    folder.mkdir(exist_ok=True)
    return client.download(artefact, folder)


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


def _open_export(folder: Path, picture: Path, done: list[_Done], bars: Progress) -> None:
    """Ask the exported folder by plain transformers. Raises `VLyardError` where it does not say what the job said."""
    opening = bars.add_task("opening the export", total=None)
    code = code_of(folder, picture)
    answer = answer_of(code)
    [asked] = [item.result for item in done if isinstance(item.result, InferenceResult)]
    expect_same(answer, asked.text, whole=asked.answer.finish_reason == "stop")
    bars.update(opening, description="opening the export: the same answer", total=1, completed=1)
    bars.console.print("\nThe export needs nothing of VLyard. These lines get the same answer from it:\n")
    bars.console.print(Syntax(code, "python", theme="ansi_dark").highlight(code), soft_wrap=True)  # to be copied
    bars.console.print(answer, style="bold", markup=False, soft_wrap=True)


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
    said = ""
    match result:
        case ConversionResult():
            said = f"{result.samples} samples with {result.boxes} boxes of {len(result.classes)} classes"
        case TrainingCheckResult():
            said = f"{result.samples} samples to learn, at most {result.lengths.largest} tokens long"
        case TrainingResult():
            said = f"{result.steps} steps to a loss of {result.loss:.3f}: the model is {result.model}"
        case EvaluationResult():
            score = f"mean IoU {result.mean_iou.value:.3f}, F1 {result.at_50.f1.value:.3f}"
            said = f"{score} on {result.samples} pictures that it has not seen"
        case InferenceResult():
            boxes = [found for found in result.objects if isinstance(found, BoxFound)]
            said = ", ".join(f"{found.label} at {found.bbox_2d}" for found in boxes) or result.text
        case ExportResult():
            compared = ", ".join(check.name for check in result.verification)
            said = f"{result.model}, proved to be the same: {compared}"
    return said
