"""A zip that is made while it is sent: as long as was said, the same each time, and cut where the store is wrong."""

import io
import zipfile
from collections.abc import Iterator, Sequence

import pytest

from control.zipping import zip_length, zip_pieces
from vlyard.errors import Unavailable
from vlyard.trees import TreeFile

CHUNK = bytes(2**20)


def file(path: str, length: int) -> TreeFile:
    return TreeFile(path=path, bytes=length, sha256="0" * 64)


def zeros(of: TreeFile) -> Iterator[bytes]:
    for _ in range(of.bytes // len(CHUNK)):
        yield CHUNK
    yield bytes(of.bytes % len(CHUNK))


def test_a_zip_holds_the_files_under_their_paths() -> None:
    files = [file("a.txt", 3), file("b/空.bin", 0), file("c", 2**21 + 1)]
    packed = b"".join(zip_pieces(files, zeros))
    assert len(packed) == zip_length(files)
    assert packed == b"".join(zip_pieces(files, zeros))
    with zipfile.ZipFile(io.BytesIO(packed)) as opened:
        assert opened.testzip() is None
        assert [(entry.filename, entry.file_size) for entry in opened.infolist()] == [(f.path, f.bytes) for f in files]


@pytest.mark.parametrize(
    "files",
    [
        [],
        [file("large", 2**31 + 5), file("after it", 7)],
        [file("half", 2**30 + 5), file("other half", 2**30 + 7), file("after them", 3)],
        [file(str(number), 0) for number in range(20_000)],
    ],
    ids=["nothing", "a file of more than 2 GiB", "more than 2 GiB together", "as many files as a tree can have"],
)
def test_the_length_is_known_before(files: Sequence[TreeFile]) -> None:
    assert sum(len(piece) for piece in zip_pieces(files, zeros)) == zip_length(files)


def test_a_piece_is_on_its_way_before_the_next_one_is_read() -> None:
    read: list[int] = []

    def counting(of: TreeFile) -> Iterator[bytes]:
        for number, piece in enumerate(zeros(of)):
            read.append(number)
            yield piece

    pieces = zip_pieces([file("large", 2**25)], counting)
    got = 0
    while got < 2**20:
        got += len(next(pieces))
    assert len(read) == 1


@pytest.mark.parametrize("came", [b"", b"12", b"1234"])
def test_content_of_another_length_cuts_the_zip_short(came: bytes) -> None:
    files = [file("a.txt", 3), file("b.txt", 3)]
    got: list[bytes] = []
    with pytest.raises(Unavailable, match=r"a\.txt has"):
        got.extend(zip_pieces(files, lambda _: iter([came])))
    assert sum(map(len, got)) < zip_length(files)
