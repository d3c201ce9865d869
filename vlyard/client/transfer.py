"""Files on their way to and from presigned URLs: streamed, checked, never half there. Knows no API and no key."""

import hashlib
import mimetypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from vlyard.client.partial import Partial, partial_of
from vlyard.client.patience import PASSING, TryAgain, connection_trouble, refused
from vlyard.errors import Complaint, InvalidInput, Unavailable
from vlyard.jobs.view import Piece, Upload

CHUNK = 1 << 20  # bytes
STALLED = httpx.Timeout(60.0, connect=10.0)  # seconds without a byte, not for the whole file
TRIES = 5
# S3 asks for another try after 500 InternalError too: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
PASSING_IN_S3 = PASSING | {500}
Told = Callable[[int, int], object]  # bytes that are there, bytes altogether
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


def untold(_there: int, _total: int) -> None:
    """For who does not want to be told how far a transfer is."""


@dataclass(frozen=True)
class Fingerprint:
    """What a file's bytes are: their number, and their SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


def fingerprint(path: Path) -> Fingerprint:
    """Read a file once, in pieces. Raises `InvalidInput` where it is no readable file."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return Fingerprint(file.tell(), digest.hexdigest())
    except OSError as error:
        fix = "upload a folder as a tree: upload_tree, or --tree on a command line" if path.is_dir() else ""
        complaint = Complaint(str(path), error.strerror or str(error), fix)
        raise InvalidInput("the file cannot be read", [complaint]) from error


def media_type(path: Path) -> str:
    """The media type that a file's name suggests; a compressed file's is that of its compression."""
    guess, compression = mimetypes.guess_type(path.name, strict=False)
    if compression:
        guess = _COMPRESSED.get(compression)
    return guess or "application/octet-stream"


def send(
    http: httpx.Client,
    target: Upload | Piece,
    path: Path,
    length: int,
    *,
    offset: int = 0,
    stopped: Callable[[], bool] = lambda: False,
    told: Told = untold,
) -> None:
    """One try at sending exactly `length` bytes of a file, from `offset` on, with exactly the headers that were signed.

    `told` hears of the bytes that have left, and `length`. Raises `InvalidInput` where the file is shorter by now,
    `Unavailable` where it was stopped, and `TryAgain` where a new try can help.
    """
    headers = {**target.headers, "Content-Length": str(length)}
    content = _pieces(path, offset, length, stopped, told)
    with connection_trouble(target.method, httpx.URL(target.url)):
        reply = http.request(target.method, target.url, content=content, headers=headers, timeout=STALLED)
    if not reply.is_success:
        raise refused(reply, PASSING_IN_S3)


def _pieces(path: Path, offset: int, length: int, stopped: Callable[[], bool], told: Told) -> Iterator[bytes]:
    left = length
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(min(CHUNK, left)):
            if stopped():
                raise Unavailable(f"the upload of {path} was stopped")
            left -= len(piece)
            yield piece
            told(length - left, length)
    if left:
        complaint = Complaint(str(path), "the file became shorter meanwhile", "upload it again")
        raise InvalidInput("the upload was stopped", [complaint])


def receive(
    http: httpx.Client, url: str, target: Path, expected: Fingerprint, named: str, *, told: Told = untold
) -> Path:
    """One try at fetching what a URL serves into the file `target`, which appears whole or not at all.

    The bytes go to a file beside it, which takes its place once length and SHA-256 are right. What came before a
    connection was lost waits there, and the next try goes on from it. Raises `InvalidInput` where the bytes are not
    the expected ones or the file cannot be written, `DiskFull`, and `TryAgain` where a new try can help. `named` is
    what messages call it; `told` hears of the bytes that are there, and all.
    """
    with partial_of(target, expected.sha256) as partial:
        waited = partial.bytes
        if not waited or waited != expected.bytes:
            _fetch(http, url, partial, expected, told)
        found = Fingerprint(partial.bytes, partial.sha256)
        if found == expected:
            partial.settle(target)
            return target
        partial.clear()
        altered = InvalidInput(
            f"the content of {named} was altered: its record says {expected.bytes} bytes with SHA-256 "
            f"{expected.sha256}, and {found.bytes} bytes with {found.sha256} came. Nothing was kept."
        )
        raise TryAgain(altered) if waited else altered  # what waited there may be at fault, and the content right


def _fetch(http: httpx.Client, url: str, partial: Partial, expected: Fingerprint, told: Told) -> None:
    """Fetch what is not there yet, or all of it where the server does not serve parts."""
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are stored
    if 0 < partial.bytes < expected.bytes:
        headers["Range"] = f"bytes={partial.bytes}-"
    with (
        connection_trouble("GET", httpx.URL(url)),
        http.stream("GET", url, headers=headers, timeout=STALLED, follow_redirects=True) as reply,
    ):
        goes_on = reply.headers.get("Content-Range", "").startswith(f"bytes {partial.bytes}-")
        if not (reply.status_code == httpx.codes.PARTIAL_CONTENT and goes_on):
            partial.clear()
        keep(reply, partial, expected.bytes, told, PASSING_IN_S3)


def keep(reply: httpx.Response, partial: Partial, total: int, told: Told, passing: frozenset[int] = PASSING) -> None:
    """Add a streamed reply to what is there; raises what a reply that is no success stands for."""
    if not reply.is_success:
        reply.read()
        raise refused(reply, passing)
    for piece in reply.iter_raw():  # as it comes: larger pieces would be lost with the connection
        partial.write(piece)
        told(partial.bytes, total)


def place(path: Path | str, name: str) -> Path:
    """Where a download goes: `path` itself, or under its own name where `path` is a folder.

    A text that ends with a slash means a folder, which is made. Raises `InvalidInput` where that cannot be, or where
    that name would lead elsewhere.
    """
    folder = Path(path)
    made = str(path).endswith(("/", os.sep))
    if not made and not folder.is_dir():
        return folder
    if name in {"", ".", ".."} or name != Path(name).name:
        raise InvalidInput(f"the artefact's name, {name!r}, is not a file's name: give the file to write")
    if made:
        make_folder(folder)
    return folder / name


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it, where it is not there. Raises `InvalidInput`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        complaint = Complaint(str(folder), error.strerror or str(error), "name another folder")
        raise InvalidInput("the folder cannot be made", [complaint]) from error
