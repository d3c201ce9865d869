"""Writing a checkpoint whole or not at all, and keeping the best weights with it. It knows no model."""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

_PROBE = b"\0" * 2**20
# Two folders deep: transformers takes a folder with an adapter right below a checkpoint for one more to be trained.
_BEST = Path("best", "weights")
_NO_WEIGHTS = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_args", "metrics")


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


def keep_best(checkpoint: Path, best: Path, *, is_best: bool) -> None:
    """Have `best` be a checkpoint's weights where they are the best so far; else the best ones go with it.

    So whoever goes on from the checkpoint has them, too. Nothing is copied: files get one more name.
    """
    if is_best:
        shutil.rmtree(best, ignore_errors=True)
        _name_again(checkpoint, best)
    elif best.is_dir():
        _name_again(best, checkpoint / _BEST)


def take_best(checkpoint: Path, best: Path) -> None:
    """What `keep_best` kept with a checkpoint, for a training that goes on from it."""
    with_it = checkpoint / _BEST
    _name_again(with_it if with_it.is_dir() else checkpoint, best)


def whole_ones(folder: Path) -> Sequence[Path]:
    """The checkpoints in a folder, the latest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2]))


def _name_again(folder: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and not file.name.startswith(_NO_WEIGHTS):
            os.link(file, target / file.name)


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
