"""Writing a checkpoint whole or not at all. It knows no model."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

_PROBE = b"\0" * 2**20


def whole_or_none(write: Callable[[], None], folder: Path) -> None:
    """Let `write` fill the folder; where that fails, nothing is left of it.

    Raises what `write` raised, and `OSError` with ENOSPC where the disk is full: torch and safetensors tell of that by
    errors of other classes, and torch names no reason.
    """
    try:
        write()
    except BaseException as error:
        full = _is_full(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if full:
            what = "the disk is full: free some of it, or write checkpoints more rarely"
            raise OSError(errno.ENOSPC, what, folder.name) from error
        raise


def _is_full(folder: Path) -> bool:
    """Whether a file that was begun takes no more."""
    return folder.is_dir() and any(_takes_no_more(path) for path in folder.iterdir() if not path.is_dir())


def _takes_no_more(path: Path) -> bool:
    try:
        with path.open("ab") as file:
            file.write(_PROBE)
    except OSError as error:
        return error.errno == errno.ENOSPC
    return False
