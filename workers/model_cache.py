"""Models on the machine's disk, shared by its worker processes. It knows no hub, no store and no model.

An entry is a folder that appears whole, and outlives a machine that loses its power. Its lock file is held, shared, by
who uses it and, alone, by who makes or removes it; the system lets go of a lock when its process dies, however it dies.
Who makes one writes into that file how many bytes it will be, so that others make room beside what is still to come,
and when the machine was started, because what a process left behind is whole only while the machine runs on.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from vlyard.errors import InvalidInput

_PATIENCE = 0.1  # seconds between two looks for a stop, while another process has the lock
_PARTIAL, _LEAVING, _LOCK = ".part", ".gone", ".lock"
_ROOM = ".room"  # held while room is made: who comes next counts what this one is about to bring


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
        entry = self.folder / key
        with self._lock_file(key).open("a+") as lock:
            while True:
                _take(lock, fcntl.LOCK_SH, check)
                if entry.is_dir():
                    os.utime(lock.fileno())
                    yield entry
                    return
                _take(lock, fcntl.LOCK_EX, check)
                if not entry.is_dir():
                    self._make(key, lock, size, fill, check)

    def has(self, key: str) -> bool:
        """Whether the entry is there now; the next moment may be another."""
        return (self.folder / key).is_dir()

    def _make(
        self, key: str, lock: IO[str], size: int, fill: Callable[[Path], None], check: Callable[[], None]
    ) -> None:
        partial = self.folder / f"{key}{_PARTIAL}"
        if _noted(lock).boot not in {"", _boot()}:  # what was not on the disk when the machine stopped may be zeros
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700, exist_ok=True)
        self._claim(key, lock, size, check)
        try:
            fill(partial)
        except InvalidInput:  # no later try goes better
            shutil.rmtree(partial)
            raise
        if (came := _size(partial)) > size:
            self._claim(key, lock, came, check)
        _sync(partial)
        partial.rename(self.folder / key)
        _sync_one(self.folder)
        lock.truncate(0)

    def _claim(self, key: str, lock: IO[str], size: int, check: Callable[[], None]) -> None:
        """Make room for so many bytes, and have others count them from now on."""
        with (self.folder / _ROOM).open("a") as room:
            _take(room, fcntl.LOCK_EX, check)
            self._make_room(size, key)
            lock.truncate(0)
            lock.write(f"{size} {_boot()}")
            lock.flush()

    def _make_room(self, size: int, but: str) -> None:
        """Remove the longest unused until there is room, and what processes that died were removing."""
        found = [path for path in self.folder.iterdir() if path.is_dir() and path.stem != but]
        sizes = {path: max(_size(path), self._to_come(path)) for path in found}
        taken = sum(sizes.values())
        for path in sorted(found, key=lambda path: (path.suffix != _LEAVING, self._used_at(path.stem))):
            if path.suffix != _LEAVING and taken + size <= self.limit_bytes:
                return
            if self._remove(path):
                taken -= sizes[path]

    def _to_come(self, path: Path) -> int:
        """How many bytes an entry will have that is being made now; 0 where nobody makes it."""
        if path.suffix != _PARTIAL:
            return 0
        with self._lock_file(path.stem).open("a+") as lock:
            if _taken_at_once(lock, fcntl.LOCK_SH):
                return 0
            return _noted(lock).bytes

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


class _Note(NamedTuple):
    """What a lock file says while its entry is being made, or was when its maker died."""

    bytes: int
    boot: str


def _noted(lock: IO[str]) -> _Note:
    lock.seek(0)
    size, _, boot = lock.read().partition(" ")
    return _Note(int(size or 0), boot)


def _boot() -> str:
    """Tells one start of the machine from another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()


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


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder to which others may be writing."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _size(folder: Path) -> int:
    total = 0
    for path in _files(folder):
        with suppress(FileNotFoundError):  # it has another name now
            total += path.stat().st_size
    return total


def _sync(folder: Path) -> None:
    """Have everything below a folder on the disk before it gets its name: a name can outlive what was not written."""
    for path in _files(folder):
        _sync_one(path)
    for place, _, _ in os.walk(folder):
        _sync_one(Path(place))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
