"""The SHA-256 of a file while it is written, by a thread that reads behind the writer."""

import hashlib
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Self

_READ = 4 << 20  # bytes
_END = -1


class Digest:
    """A new file and its SHA-256: `file` is written to, and `grown` told after each time.

    The bytes are read back from the machine's cache of the disk: those that are copied never pass through here.
    """

    def __init__(self, path: Path) -> None:
        self.file: BinaryIO = path.open("wb", buffering=0)
        self.hex = ""  # known when the file is closed
        self._path = path
        self._lengths: SimpleQueue[int] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, name=f"sha256-{path.name}", daemon=True)

    def grown(self, count: int) -> None:
        """So many bytes more are there to be read."""
        self._lengths.put(count)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self._lengths.put(_END)
        self._reader.join()

    def _read(self) -> None:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_READ))
        with self._path.open("rb", buffering=0) as file:
            while (count := self._lengths.get()) != _END:
                while count:
                    got = file.readinto(buffer[: min(count, _READ)])
                    digest.update(buffer[:got])
                    count -= got
        self.hex = digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
