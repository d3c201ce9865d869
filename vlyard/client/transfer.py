"""Files on their way to and from presigned URLs: streamed, checked, never half there. Knows no API and no key."""

import errno
import hashlib
import mimetypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx

from vlyard.client.patience import PASSING, connection_trouble, refused
from vlyard.errors import Complaint, DiskFull, InvalidInput, Unavailable
from vlyard.jobs.view import Piece, Upload

CHUNK = 1 << 20  # bytes
STALLED = httpx.Timeout(60.0, connect=10.0)  # seconds without a byte, not for the whole file
TRIES = 5
# S3 asks for another try after 500 InternalError too: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
PASSING_IN_S3 = PASSING | {500}
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


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
        fix = "upload a folder as a tree" if path.is_dir() else ""
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
) -> None:
    """One try at sending exactly `length` bytes of a file, from `offset` on, with exactly the headers that were signed.

    Raises `InvalidInput` where the file is shorter by now, `Unavailable` where it was stopped, and `TryAgain` where a
    new try can help.
    """
    headers = {**target.headers, "Content-Length": str(length)}
    content = _pieces(path, offset, length, stopped)
    with connection_trouble(target.method, httpx.URL(target.url)):
        reply = http.request(target.method, target.url, content=content, headers=headers, timeout=STALLED)
    if not reply.is_success:
        raise refused(reply, PASSING_IN_S3)


def _pieces(path: Path, offset: int, length: int, stopped: Callable[[], bool]) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(min(CHUNK, length)):
            if stopped():
                raise Unavailable(f"the upload of {path} was stopped")
            length -= len(piece)
            yield piece
    if length:
        complaint = Complaint(str(path), "the file became shorter meanwhile", "upload it again")
        raise InvalidInput("the upload was stopped", [complaint])


def receive(http: httpx.Client, url: str, target: Path, expected: Fingerprint, named: str) -> Path:
    """One try at fetching what a URL serves into the file `target`, which appears whole or not at all.

    The bytes go to a file beside it, which takes its place once length and SHA-256 are right. Raises `InvalidInput`
    where the bytes are not the expected ones or the file cannot be written, `DiskFull`, and `TryAgain` where a new try
    can help. `named` is what messages call it.
    """
    with appearing(target) as partial:
        found = _stream(http, url, partial)
        if found != expected:
            raise InvalidInput(
                f"the content of {named} was altered: its record says {expected.bytes} bytes with SHA-256 "
                f"{expected.sha256}, and {found.bytes} bytes with {found.sha256} came. Nothing was kept."
            )
    return target


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A file to write, beside `target`, which takes its place at the end, or goes away where something is raised."""
    partial = target.with_name(f".vlyard-{uuid4().hex}.part")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"the disk is full: there is no room for {target}") from error
        raise InvalidInput("the file cannot be written", [Complaint(str(target), str(error.strerror))]) from error
    finally:
        partial.unlink(missing_ok=True)


def _stream(http: httpx.Client, url: str, path: Path) -> Fingerprint:
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are stored
    with (
        connection_trouble("GET", httpx.URL(url)),
        http.stream("GET", url, headers=headers, timeout=STALLED, follow_redirects=True) as reply,
    ):
        return keep(reply, path, PASSING_IN_S3)


def keep(reply: httpx.Response, path: Path, passing: frozenset[int] = PASSING) -> Fingerprint:
    """Write a streamed reply into a new file; raises what a reply that is no success stands for."""
    if not reply.is_success:
        reply.read()
        raise refused(reply, passing)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for piece in reply.iter_raw(CHUNK):
            digest.update(piece)
            file.write(piece)
        return Fingerprint(file.tell(), digest.hexdigest())


def place(path: Path, name: str) -> Path:
    """Where a download goes: `path` itself, or under its own name where `path` is a folder.

    Raises `InvalidInput` where that name would lead elsewhere.
    """
    if not path.is_dir():
        return path
    if name in {"", ".", ".."} or name != Path(name).name:
        raise InvalidInput(f"the artefact's name, {name!r}, is not a file's name: give the file to write")
    return path / name
