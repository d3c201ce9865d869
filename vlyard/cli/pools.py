"""`vlyard pools`: where jobs can run, who works there and in what health, and how long the lines are."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from vlyard.cli.listing import AsJson, ListingGroup, console, print_json, show_table
from vlyard.client import Client
from vlyard.pools import Pool, Worker

_group = typer.Typer(cls=ListingGroup, help="Pools, their workers and their load; lists them where no verb is given.")


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.add_typer(_group, name="pools")


@_group.command("list")
def list_pools(as_json: AsJson = False) -> None:
    """List all pools with their living workers, and what waits and runs there."""
    with Client() as client:
        found = client.pools()
    if as_json:
        print_json(found)
        return
    loads = ("POOL", "KIND", "QUEUED", "RUNNING", "QUEUED OF ALL", "RUNNING OF ALL")
    show_table(loads, (row for pool in found for row in _load_rows(pool)))
    workers = [row for pool in found for row in _worker_rows(pool)]
    if workers:
        console().print()
        show_table(("WORKER", "POOL", "DEVICE", "KINDS", "RUNNING", "STATE", "HEARTBEAT", "SELF-TEST"), workers)


@_group.command("create")
def create_pool(
    name: Annotated[str, typer.Argument(help="Small letters, digits and -; 63 at most.")], as_json: AsJson = False
) -> None:
    """Make a pool, for administrators."""
    with Client() as client:
        made = client.create_pool(name)
    if as_json:
        print_json(made)
    else:
        print(f"pool {made.name} is made; workers join it: vlyard worker --device gpu --pool {made.name}")


def self_test_text(worker: Worker) -> str:
    """What a worker found out about itself, in short: `ok`, or the notes of what failed; `-` where it has no test."""
    found: dict[str, Any] = worker.self_test
    if not found:
        return "-"
    if found.get("ok"):
        return "ok"
    failed = [check for check in found.get("checks", ()) if not check.get("ok")]
    return "; ".join(f"{check.get('name')}: {check.get('note')}" for check in failed) or "failed"


def _load_rows(pool: Pool) -> Iterator[tuple[str, ...]]:
    if not pool.load:
        yield (pool.name, "-", *["0"] * 4)
    for load in pool.load:
        counts = (load.queued, load.running, load.queued_of_all, load.running_of_all)
        yield (pool.name, load.kind, *(f"{count:,}" for count in counts))


def _worker_rows(pool: Pool) -> Iterator[tuple[str, ...]]:
    for each in pool.workers:
        device = ", ".join((each.device, *each.gpus))
        state = "draining" if each.draining else "working"
        running = f"{each.running}, {each.slots} at once"
        silent = f"{each.silent_seconds:.0f} s ago"
        yield (each.name, pool.name, device, ", ".join(each.kinds), running, state, silent, self_test_text(each))
