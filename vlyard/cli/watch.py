"""The commands that follow a job while it runs: watch, logs."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from vlyard.cli.jobs import AsJson, JobId, goes_on
from vlyard.client import Client
from vlyard.jobs.events import Event
from vlyard.jobs.view import Failure, Progress

_WHOLE_FROM = 100.0  # a rate is told without its fraction
# What the line of a `metrics` event shows of it, where it is there.
_MEASURED = (
    ("step", "step {}"),
    ("loss", "loss {}"),
    ("learning_rate", "lr {}"),
    ("samples_per_second", "{} samples/s"),
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    for command in (watch, logs):
        app.command()(command)


def watch(id: JobId, as_json: AsJson = False) -> None:
    """Follow a job to its end, as it happens; fail if it fails. With --json, one event a line."""
    with Client() as client:
        with goes_on(id), _screen() as bars:
            for event in client.events(id):
                if as_json:
                    print(event.model_dump_json(), flush=True)
                elif event.type in {"progress", "metrics"} and sys.stdout.isatty():
                    _draw(bars, event)
                else:
                    bars.console.out(_line(event), highlight=False)
        client.result(client.job(id))  # a job that failed fails the command


def logs(
    id: JobId,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="The attempt's number; the newest one's if not given.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the attempt has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a job's handler said. With --json, one piece of whole lines a line."""
    with Client() as client:
        for text in client.log(id, attempt, follow=follow):
            if as_json:
                print(json.dumps({"text": text}, ensure_ascii=False), flush=True)
            else:
                print(text, end="", flush=True)


@contextmanager
def _screen() -> Iterator[Bars]:
    """Lines on standard output, and below them a bar where somebody looks at it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    console = Console(markup=False, highlight=False, emoji=False)
    with Bars(*columns, console=console, transient=True, disable=not sys.stdout.isatty()) as bars:
        yield bars


def _draw(bars: Bars, event: Event) -> None:
    """One line for how far it is, and one for what it measures."""
    bar = next((task.id for task in bars.tasks if task.fields["of"] == event.type), None)
    if bar is None:
        bar = bars.add_task("", total=None, of=event.type)
    fraction = event.data.get("fraction")
    total = None if fraction is None else 1.0
    bars.update(bar, description=_what(event), total=total, completed=fraction or 0.0)


def _line(event: Event) -> str:
    """An event as people read it."""
    return f"{event.at.astimezone():%H:%M:%S}  {_what(event)}"


def _what(event: Event) -> str:
    if event.type == "progress":
        return progress_text(Progress.model_validate(event.data, extra="ignore"))
    if event.type == "metrics":
        return metrics_text(event.data)
    if event.type == "priority":
        return f"priority {event.data['priority']}"
    attempt = f", attempt {event.data['attempt']}" if event.data.get("attempt") else ""
    asked = ", asked to stop" if event.data.get("cancel_requested") else ""
    error = event.data.get("error")
    why = f": {Failure.model_validate(error, extra='ignore').message}" if error else ""
    return f"{event.data.get('state', event.type)}{attempt}{asked}{why}"


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """What a training measured, in one line."""
    told = ((form, metrics.get(name)) for name, form in _MEASURED)
    return " · ".join(form.format(_number(value)) for form, value in told if isinstance(value, int | float))


def progress_text(progress: Progress) -> str:
    """How far a job is, in one line."""
    percent = "" if progress.fraction is None else f"{progress.fraction:.0%}"
    rate = "" if progress.rate is None else f"{_number(progress.rate)} {progress.unit or ''}".strip() + "/s"
    left = "" if progress.eta_seconds is None else f"{timedelta(seconds=round(progress.eta_seconds))} left"
    return " · ".join(part for part in (percent, progress.text, rate, left) if part)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE_FROM else f"{value:.3g}"
