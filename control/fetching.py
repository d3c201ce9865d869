"""Files out of the artefact store, many at once and large ones in ranges, each compared with its digest.

It knows no S3: how a range is read, it is given. A digest is made while bytes arrive: of those that come in order as
they pass, of the others from the file as soon as those before them are there, when the system still has them in
memory. Memory stays flat: a thread holds what it read last, and no more.
"""

import _thread
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import FileIO
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TypeAlias
from uuid import uuid4

from vlyard.errors import InvalidInput, OutOfMemory, Unavailable
from vlyard.files import ArtefactKind, Stored

PIECE_BYTES = 32 * 2**20
THREADS = 8
_TRIES = 5  # for one piece, each of which must have brought something
_LOOK = 0.1  # seconds between two looks for a stop
_START_SECONDS = 1.0  # in which the first thread begins, or the caller does the work itself
_CHUNK = 2**20

Told: TypeAlias = Callable[[int], None]
# Reads a file from a byte to another, which is not read any more; None: to its end. Raises `Unavailable`, and
# `InvalidInput` where it is gone or altered.
Read: TypeAlias = Callable[[Stored, int, int | None], Iterator[bytes]]


def fetch_each(read: Read, files: Mapping[Path, Stored], told: Told) -> None:
    """Write the files to these paths, where each appears once it is whole and right.

    `told` hears several times a second, in the caller's thread, how many bytes have come, and raises when it is time
    to stop. Raises `Unavailable`, and `InvalidInput` that names a file which is gone, or is not what was stored; then
    what had arrived whole stays.
    """
    arriving = [_Arriving(file, path) for path, file in files.items()]
    fetch = _Fetch(read, _interleaved([each.pieces() for each in arriving]))
    told(0)
    try:
        for each in arriving:
            each.partial.touch()
        fetch.run(told)
    finally:
        fetch.stop()
        for each in arriving:
            each.partial.unlink(missing_ok=True)


class _Piece(NamedTuple):
    """A range of a file."""

    of: "_Arriving"
    begin: int
    end: int | None


class _Arriving:
    """A file on its way, and the digest of its beginning."""

    def __init__(self, file: Stored, path: Path) -> None:
        self.file = file
        self.path = path
        self.partial = path.with_name(f"{uuid4()}.part")
        self._lock = threading.Lock()
        self._digest = hashlib.sha256()
        self._digested = 0  # bytes
        self._busy = False  # whether somebody adds to the digest
        self._there: dict[int, int] = {}  # ends of ranges that were written, by their beginnings
        self._missing = len(self.pieces())

    def pieces(self) -> list[_Piece]:
        """Its ranges in order. A tree's entry says how long its files are, and not how long its manifest is."""
        if self.file.kind is ArtefactKind.TREE:
            return [_Piece(self, 0, None)]
        length = self.file.bytes
        starts = range(0, max(length, 1), PIECE_BYTES)
        return [_Piece(self, start, min(start + PIECE_BYTES, length)) for start in starts]

    def take(self, piece: _Piece, chunks: Iterable[bytes]) -> None:
        """Write a range as it comes; whoever brings what the digest waits for also adds what others have brought.

        With the last of them the file gets its name. Raises `InvalidInput` where it is not what was stored.
        """
        ours = self._begin(piece.begin)
        at = piece.begin
        with self.partial.open("r+b", buffering=0) as out:
            out.seek(at)
            for chunk in chunks:
                _write(out, chunk)
                at += len(chunk)
                if ours:
                    self._digest.update(chunk)
            if ours:
                self._digested = at
            complete = self._arrived(piece.begin, at, ours=ours) and self._caught_up(out)
        if complete:
            self._finish()

    def _begin(self, begin: int) -> bool:
        with self._lock:
            ours = not self._busy and self._digested == begin
            self._busy = self._busy or ours
            return ours

    def _arrived(self, begin: int, end: int, *, ours: bool) -> bool:
        """Note a range that was written; returns whether its bringer is the one who adds to the digest now."""
        with self._lock:
            self._missing -= 1
            if not ours:
                self._there[begin] = end
                ours, self._busy = not self._busy, True
            return ours

    def _caught_up(self, content: FileIO) -> bool:
        """Add to the digest what is there of what comes next; returns whether that was the end of the file."""
        while True:
            with self._lock:
                end = self._there.pop(self._digested, None)
                if end is None:
                    self._busy = False  # whoever brings what comes next goes on
                    return not self._missing
            content.seek(self._digested)
            while self._digested < end and (chunk := content.read(min(_CHUNK, end - self._digested))):
                self._digest.update(chunk)
                self._digested += len(chunk)

    def _finish(self) -> None:
        if self._digest.hexdigest() != self.file.sha256:
            raise altered(self.file)
        self.partial.rename(self.path)


class _Stopped(Exception):
    """Nobody waits for the thread any more."""


class _Fetch:
    """Ranges that are waiting, and the threads that bring them."""

    def __init__(self, read: Read, waiting: Iterable[_Piece]) -> None:
        self._read = read
        self._waiting = deque(waiting)
        self._left = len(self._waiting)
        self._bytes = 0  # that came
        self._at_work = 0  # threads
        self._error: BaseException | None = None
        self._stopped = False
        self._changed = threading.Condition()

    def run(self, told: Told) -> None:
        """Bring everything; raises the first error. A single range is brought without a thread."""
        started = self._start(min(THREADS, self._left)) if self._left > 1 else 0
        patient_until = time.monotonic() + (_START_SECONDS if started else 0)
        while self._going_on():
            if self._at_work or time.monotonic() < patient_until:
                with self._changed:
                    if self._left and self._error is None:
                        self._changed.wait(_LOOK)
                told(self._bytes)
            elif not self._bring_one(lambda: told(self._bytes)):
                raise OutOfMemory("the threads that fetched files ended without a word")
        told(self._bytes)

    def stop(self) -> None:
        """Have the threads end when they next look, which may be when a server answers: nobody waits for that."""
        self._stopped = True

    def _going_on(self) -> bool:
        if self._error is not None:
            raise self._error
        return self._left > 0

    def _start(self, count: int) -> int:
        """Start threads, as many as there is memory for.

        Not by `threading.Thread`, whose `start` waits for the thread's first word: where memory ends before that, it
        waits forever.
        """
        for number in range(count):
            try:
                _thread.start_new_thread(self._work, ())
            except (RuntimeError, MemoryError):
                return number
        return count

    def _work(self) -> None:
        with self._changed:
            self._at_work += 1
        try:
            while not self._stopped and self._bring_one(self._expect_to_go_on):
                pass
        except BaseException as error:  # noqa: BLE001  # the caller raises it
            self._error = self._error or error
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    def _expect_to_go_on(self) -> None:
        if self._stopped:
            raise _Stopped

    def _bring_one(self, check: Callable[[], None]) -> bool:
        """Bring the next range; returns whether there was one."""
        try:
            piece = self._waiting.popleft()
        except IndexError:
            return False
        piece.of.take(piece, self._chunks(piece, check))
        with self._changed:
            self._left -= 1
            self._changed.notify_all()
        return True

    def _chunks(self, piece: _Piece, check: Callable[[], None]) -> Iterator[bytes]:
        """A range's bytes; where the connection breaks, on from there."""
        file, at, tries = piece.of.file, piece.begin, 0
        while True:
            before = at
            try:
                for chunk in self._read(file, at, piece.end):
                    check()
                    at += len(chunk)
                    with self._changed:
                        self._bytes += len(chunk)
                    yield chunk
            except Unavailable:
                tries += 1
                if at == before or piece.end is None or tries == _TRIES:
                    raise
            if piece.end is None or at >= piece.end or at == before:
                return


def gone(file: Stored) -> InvalidInput:
    """For raising where the store has no such object."""
    return InvalidInput(f"the content of {file.name} is not in the store: upload it again")


def altered(file: Stored) -> InvalidInput:
    """For raising where the store has another object."""
    return InvalidInput(f"the content of {file.name} was altered after it was stored: upload it again")


def _write(out: FileIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[out.write(left) :]


def _interleaved(files: list[list[_Piece]]) -> Iterator[_Piece]:
    """Ranges of many files by turns, so that as many digests are made at once."""
    return (piece for turn in zip_longest(*files) for piece in turn if piece is not None)
