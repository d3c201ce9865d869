"""`vlyard why`: why a job is where it is, and what to do about it. The words are the API's."""

from collections.abc import Iterator

import typer

from vlyard.cli.jobs import JobId
from vlyard.cli.listing import AsJson, print_json, show_facts, time_text
from vlyard.client import Client
from vlyard.jobs.why import FARTHEST, Why


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(why)


def why(id: JobId, as_json: AsJson = False) -> None:
    """Say why a job is where it is: what it waits for, its place in the line, its last error, what to do about it."""
    with Client() as client:
        found = client.why(id)
    if as_json:
        print_json(found)
        return
    print(found.sentence)
    show_facts(_facts(found))


def _facts(found: Why) -> Iterator[tuple[str, str]]:
    yield "job", f"{found.job} ({found.kind} in pool {found.pool})"
    yield "state", found.state
    yield "reason", found.reason
    yield "since", time_text(found.since)
    yield "next try", time_text(found.until)
    yield "worker", found.worker or ""
    yield "attempt", f"{found.attempt} of {found.max_attempts}" if found.attempt else ""
    yield "position", _counted(found.position)
    yield "ahead", _counted(found.ahead)
    yield "needs", "\n".join(f"{need.output} of {need.job} ({need.kind}, {need.state})" for need in found.needs)
    if found.error:
        said = f"{found.error.message} [{found.error.code}]"
        yield "last error", "\n".join([said, *map(str, found.error.complaints)])
    yield "next step", found.next_step


def _counted(place: int | None) -> str:
    if place is None:
        return ""
    return f"more than {FARTHEST:,}" if place > FARTHEST else f"{place:,}"
