"""A tree as one zip, made while it is sent: nothing is held but the piece on its way, and the length is known before.

Files are stored as they are, with one date and one mode for all, so that equal trees give equal bytes.
"""

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from zipfile import ZIP64_LIMIT, ZIP_FILECOUNT_LIMIT, ZIP_STORED, ZipFile, ZipInfo

from vlyard.errors import Unavailable
from vlyard.trees import TreeFile

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first day that a zip can name
_UNIX = 3
# Lengths in bytes of what a zip has besides names and content, APPNOTE.TXT 4.3 (pkware.com/appnote). Sizes follow the
# content in a descriptor, because nobody knows the checksum before.
_LOCAL, _LOCAL_64 = 30, 20
_DESCRIPTOR, _DESCRIPTOR_64 = 16, 24
_CENTRAL, _EXTRA_64, _FIELD_64 = 46, 4, 8
_END, _END_64 = 22, 56 + 20


def zip_length(files: Iterable[TreeFile]) -> int:
    """The exact length in bytes of the zip of these files, in this order."""
    at = directory = count = 0
    for file in files:
        name = len(file.path.encode())
        fields = 2 * (file.bytes > ZIP64_LIMIT) + (at > ZIP64_LIMIT)
        directory += _CENTRAL + name + (_EXTRA_64 + _FIELD_64 * fields if fields else 0)
        wide = _is_wide(file)
        at += _LOCAL + name + file.bytes + (_LOCAL_64 + _DESCRIPTOR_64 if wide else _DESCRIPTOR)
        count += 1
    is_wide = count > ZIP_FILECOUNT_LIMIT or at > ZIP64_LIMIT or directory > ZIP64_LIMIT
    return at + directory + _END + (_END_64 if is_wide else 0)


def zip_pieces(files: Sequence[TreeFile], read: Callable[[TreeFile], Iterator[bytes]]) -> Iterator[bytes]:
    """The zip of these files, in this order and in pieces; `read` gives a file's content.

    Raises `Unavailable` where the content has another length than the file: the zip ends there, and whoever gets it
    sees that it is shorter than was said.
    """
    sink = _Sink()
    with ZipFile(sink, "w", ZIP_STORED) as packed:
        for file in files:
            entry = ZipInfo(file.path, _EPOCH)
            entry.create_system = _UNIX
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = file.bytes
            came = 0
            with packed.open(entry, "w", force_zip64=_is_wide(file)) as target:
                for piece in read(file):
                    came += len(piece)
                    target.write(piece)
                    yield from sink.taken()
                if came != file.bytes:
                    raise Unavailable(f"{file.path} has {came} bytes in the store, and {file.bytes} in its manifest")
            yield from sink.taken()
    yield from sink.taken()


def _is_wide(file: TreeFile) -> bool:
    return file.bytes > ZIP64_LIMIT // 2  # well below where zipfile itself begins to


class _Sink:
    """What a zip is written to, until it is taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """Nothing is open."""

    def taken(self) -> Iterator[bytes]:
        pieces, self._pieces = self._pieces, []
        return iter(pieces)
