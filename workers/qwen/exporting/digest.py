"""The SHA-256 of a file while it is written, by a thread that reads the same memory as the writer."""

import hashlib
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Self

# Parts that may be written before the digest has seen them, so that neither waits where both share their cores with
# others. All memory that it takes is theirs.
_AHEAD = 32
_END = memoryview(b"")  # known by what it is, not by its length


class Digest:
    """A new file and its SHA-256. A part of it is made in a `buffer`, and then `put`.

    A part is still in the processor's caches when it is written and looked at, and nothing is read back.
    """

    def __init__(self, path: Path) -> None:
        self.hex = ""  # known when the file is closed
        self._file: BinaryIO = path.open("wb", buffering=0)
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._parts: SimpleQueue[memoryview] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, name=f"sha256-{path.name}", daemon=True)
        for _ in range(_AHEAD):
            self._free.put(memoryview(b""))

    def buffer(self, count: int) -> memoryview:
        """So many bytes for the next part, with anything in them; waits until the digest has seen an earlier one."""
        memory = self._free.get()
        return (memory if len(memory) >= count else memoryview(bytearray(count)))[:count]

    def put(self, part: memoryview) -> None:
        """Write a part that `buffer` gave; it must not change from then on."""
        left = part
        while left:
            left = left[self._file.write(left) :]
        self._parts.put(part)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._parts.put(_END)
        self._reader.join()

    def _read(self) -> None:
        digest = hashlib.sha256()
        while (part := self._parts.get()) is not _END:
            digest.update(part)
            self._free.put(memoryview(part.obj))
        self.hex = digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
