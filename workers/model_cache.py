"""Models on the machine's disk, shared by its worker processes. It knows no hub, no store and no model.

An entry is a folder that appears whole. Its lock file is held, shared, by who uses it and, alone, by who makes or
removes it; the system lets go of a lock when its process dies, however it dies.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vlyard.errors import InvalidInput

_PATIENCE = 0.1  # seconds between two looks for a stop, while another process has the lock
_PARTIAL, _LEAVING, _LOCK = ".part", ".gone", ".lock"


@dataclass(frozen=True)
class ModelCache:
    """A folder of models and how many bytes they may take. What is in use stays, even where it takes more."""

    folder: Path
    limit_bytes: int

    @contextmanager
    def entry(self, key: str, size: int, fill: Callable[[Path], None], check: Callable[[], None]) -> Iterator[Path]:
        """The folder of that key, a word of letters and digits, which stays for as long as the block lasts.

        Where it is missing, `fill` writes it into the folder that it is given, which may hold what an earlier try
        left; `size` is how many bytes that will be, about. `check` raises when it is time to stop.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry, partial = self.folder / key, self.folder / f"{key}{_PARTIAL}"
        with self._lock_file(key).open("a") as lock:
            while True:
                _take(lock, fcntl.LOCK_SH, check)
                if entry.is_dir():
                    os.utime(lock.fileno())
                    yield entry
                    return
                _take(lock, fcntl.LOCK_EX, check)
                if not entry.is_dir():
                    self._make_room(size, key)
                    self._fill(partial, fill)
                    partial.rename(entry)

    def has(self, key: str) -> bool:
        """Whether the entry is there now; the next moment may be another."""
        return (self.folder / key).is_dir()

    def _fill(self, partial: Path, fill: Callable[[Path], None]) -> None:
        partial.mkdir(mode=0o700, exist_ok=True)
        try:
            fill(partial)
        except InvalidInput:  # no later try goes better
            shutil.rmtree(partial)
            raise

    def _make_room(self, size: int, but: str) -> None:
        """Remove the longest unused until there is room, and what processes that died were removing."""
        found = [path for path in self.folder.iterdir() if path.is_dir() and path.stem != but]
        sizes = {path: _size(path) for path in found}
        taken = sum(sizes.values())
        for path in sorted(found, key=lambda path: (path.suffix != _LEAVING, self._used_at(path.stem))):
            if path.suffix != _LEAVING and taken + size <= self.limit_bytes:
                return
            if self._remove(path):
                taken -= sizes[path]

    def _remove(self, path: Path) -> bool:
        with self._lock_file(path.stem).open("a") as lock:
            if not _taken_at_once(lock, fcntl.LOCK_EX):
                return False
            leaving = path.with_name(f"{path.stem}{_LEAVING}")
            if path != leaving:
                shutil.rmtree(leaving, ignore_errors=True)
                path.rename(leaving)
            shutil.rmtree(leaving)
            return True

    def _used_at(self, key: str) -> float:
        lock = self._lock_file(key)
        return lock.stat().st_mtime if lock.exists() else 0.0

    def _lock_file(self, key: str) -> Path:
        return self.folder / f"{key}{_LOCK}"


def _take(lock: IO[str], how: int, check: Callable[[], None]) -> None:
    while not _taken_at_once(lock, how):
        check()
        time.sleep(_PATIENCE)


def _taken_at_once(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
