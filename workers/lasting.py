"""A folder of a job's own on the machine, which outlives an attempt that was killed: the next one goes on there.

What an attempt keeps in its scratch folder goes with it. This is for files that take hours to write and that the next
attempt knows to be whole. It knows no model and no database.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import UUID

from vlyard.errors import Unavailable

KEPT_SECONDS = 86_400.0  # for so long a folder waits for the next attempt of its job
_PATIENCE = 0.1  # seconds between two looks for a stop, while an attempt that was given up still has the folder
_LOCK = ".lock"


@contextmanager
def lasting(place: Path, job: UUID, check: Callable[[], None]) -> Iterator[Path]:
    """The job's folder below a place, as an attempt that was killed left it, for this attempt alone.

    It goes when the block ends, however it ends, unless that is an outage, after which the job is tried again. Folders
    that nobody came back to for a day go when the next one is asked for. `check` raises when it is time to stop.
    """
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(place, but=str(job))
    folder = place / str(job)
    with (place / f"{job}{_LOCK}").open("a") as lock:
        while not _taken(lock):
            check()
            time.sleep(_PATIENCE)
        os.utime(lock.fileno())
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            yield folder
        except Unavailable:
            raise
        except BaseException:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def _sweep(place: Path, but: str) -> None:
    for lock in place.glob(f"*{_LOCK}"):
        if lock.stem == but or time.time() - lock.stat().st_mtime < KEPT_SECONDS:
            continue
        with lock.open("r+") as taken:
            if _taken(taken):
                shutil.rmtree(place / lock.stem, ignore_errors=True)
                lock.unlink(missing_ok=True)


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
