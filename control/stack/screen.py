"""What a person in front of a terminal sees of a stack, and how they stop it."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from control.stack.roles import ENVIRONMENT, Doors

_PIPED_WIDTH = 160  # columns where there is no terminal to ask


def open_console(*, stderr: bool = False) -> Console:
    """The terminal, or whatever takes its place, on standard output, or beside it."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else _PIPED_WIDTH)


def doors_table(doors: Doors, folder: Path) -> Table:
    """Where everything is."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("API", f"{doors.api}  (described at {doors.api}/docs)")
    table.add_row("API key", doors.key)
    table.add_row("Flower", f"{doors.flower}  (user {doors.flower_user}, password {doors.flower_password})")
    table.add_row("data and logs", str(folder))
    table.add_row("settings", f"{folder / ENVIRONMENT}  (for other shells: `. {folder / ENVIRONMENT}`)")
    return table


@contextmanager
def interruptible() -> Iterator[None]:
    """Take a termination or a closed terminal for a Ctrl-C, so that what was started is stopped in all three cases."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
