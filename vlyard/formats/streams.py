"""The output's files that grow from the pieces of many pictures. It knows no format."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from vlyard.formats.writing import Frame, Writer


class Streams:
    """Opens each file when its first entry comes, and completes them all at the end."""

    def __init__(self, folder: Path, writer: Writer) -> None:
        self._folder, self._writer = folder, writer
        self._files: dict[str, tuple[BinaryIO, Frame]] = {}
        self._counts: dict[str, int] = {}

    def add(self, file: str, entries: Sequence[bytes]) -> None:
        """Append entries to a file, in its frame."""
        if file not in self._files:
            frame = self._writer.frame(file)
            assert frame is not None  # what has none is written where it is rendered
            path = self._folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[file] = path.open("wb"), frame
            self._files[file][0].write(frame.head)
            self._counts[file] = 0
        stream, frame = self._files[file]
        begun = self._counts[file]
        if frame.number:
            entries = [frame.number % (begun + place) + entry for place, entry in enumerate(entries, 1)]
        stream.write((frame.between if begun and entries else b"") + frame.between.join(entries))
        self._counts[file] += len(entries)

    def __enter__(self) -> "Streams":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream, frame in self._files.values():
            if error is None:
                stream.write(frame.tail)
            stream.close()
