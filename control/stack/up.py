"""`vlyard up`: everything on this machine, until Ctrl-C."""

import time
from pathlib import Path
from typing import Annotated

import typer

from control.stack.roles import start_roles
from control.stack.screen import doors_table, interruptible, open_console
from control.stack.stack import Stack


def up(
    data: Annotated[Path, typer.Option(help="The folder that keeps everything: databases, files, keys, logs.")] = Path(
        ".vlyard/up"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The API's port; 0: the one it had before.")] = 0,
) -> None:
    """Start the servers that no setting names, the API, the dispatcher, workers and Flower; stop them at Ctrl-C."""
    console = open_console()
    with interruptible(), Stack(data, say=lambda line: console.print(line, style="dim", markup=False)) as stack:
        doors = start_roles(stack, port)
        console.print(doors_table(doors, stack.folder.path))
        console.print("Ctrl-C stops everything.", style="bold")
        try:
            while True:
                stack.supervisor.tend()
                time.sleep(1)
        except KeyboardInterrupt:
            console.print("stopping", style="dim")
