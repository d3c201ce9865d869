"""A file that is not all there yet: it waits beside the one that it will be. Knows no HTTP."""

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from vlyard.errors import Complaint, DiskFull, InvalidInput

_PIECE = 1 << 20  # bytes


class Partial:
    """The bytes that have come, in their order, and their digest."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.bytes = 0
        self._file = file
        self._path = path
        self._digest = hashlib.sha256()
        while piece := file.read(_PIECE):
            self._count(piece)

    @property
    def sha256(self) -> str:
        """The SHA-256 of what is there, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, piece: bytes) -> None:
        """Add what comes next."""
        self._file.write(piece)
        self._count(piece)

    def clear(self) -> None:
        """Begin anew."""
        self._file.seek(0)
        self._file.truncate()
        self._digest, self.bytes = hashlib.sha256(), 0

    def settle(self, target: Path) -> None:
        """Take the target's place: it is all there."""
        if sys.platform == "win32":
            self._file.close()  # Windows moves no open file; elsewhere it stays locked until it is in its place
        else:
            self._file.flush()
        self._path.replace(target)

    def _count(self, piece: bytes) -> None:
        self._digest.update(piece)
        self.bytes += len(piece)


@contextmanager
def partial_of(target: Path, sha256: str = "") -> Iterator[Partial]:
    """The file that becomes `target`, whose content will have that digest, with what an earlier try left of it.

    What has come stays for the next try, unless it was settled, or no digest says what it belongs to. Raises
    `DiskFull`, which keeps nothing, and `InvalidInput` where it cannot be written.
    """
    waiting = target.with_name(f".vlyard-{sha256[:32]}.part")
    own = target.with_name(f".vlyard-{uuid4().hex}.part")  # where another process is at that one, or may be
    keep = False
    path = own
    try:
        file = _taken(waiting) if sha256 else None
        if file is not None:
            path = waiting
        with file or own.open("x+b") as opened:
            partial = Partial(opened, path)
            try:
                yield partial
            finally:
                keep = path == waiting and partial.bytes > 0
    except OSError as error:
        keep = keep and error.errno != errno.ENOSPC
        raise unwritable(error, target) from error
    finally:
        if not keep:
            path.unlink(missing_ok=True)


def unwritable(error: OSError, target: Path) -> DiskFull | InvalidInput:
    """Why a file could not be written, in our words."""
    if error.errno == errno.ENOSPC:
        return DiskFull(f"the disk is full: there is no room for {target}")
    return InvalidInput("the file cannot be written", [Complaint(str(target), error.strerror or str(error))])


def _taken(path: Path) -> BinaryIO | None:
    """The file, opened and locked; None where another process has it, or where that cannot be known."""
    if sys.platform == "win32":
        return None
    import fcntl  # there is none on Windows

    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else it has just become its target
            file.seek(0)
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None
