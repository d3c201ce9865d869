"""Files on their way to and from presigned URLs: streamed, checked, never half there. Knows no API and no key."""

import errno
import hashlib
import mimetypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx

from vlyard.client.patience import PASSING, connection_trouble, refused
from vlyard.errors import Complaint, Conflict, DiskFull, InvalidInput
from vlyard.jobs.view import Artefact, Upload

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
        raise InvalidInput("the file cannot be read", [Complaint(str(path), error.strerror or str(error))]) from error


def media_type(path: Path) -> str:
    """The media type that a file's name suggests; a compressed file's is that of its compression."""
    guess, compression = mimetypes.guess_type(path.name, strict=False)
    if compression:
        guess = _COMPRESSED.get(compression)
    return guess or "application/octet-stream"


def send(http: httpx.Client, upload: Upload, path: Path, length: int) -> None:
    """One try at sending a file: exactly `length` bytes with exactly the headers that were signed.

    Raises `InvalidInput` where the file is shorter by now, and `TryAgain` where a new try can help.
    """
    headers = {**upload.headers, "Content-Length": str(length)}
    with connection_trouble(upload.method, httpx.URL(upload.url)):
        reply = http.request(upload.method, upload.url, content=_pieces(path, length), headers=headers, timeout=STALLED)
    if not reply.is_success:
        raise refused(reply, PASSING_IN_S3)


def _pieces(path: Path, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(min(CHUNK, length)):
            length -= len(piece)
            yield piece
    if length:
        complaint = Complaint(str(path), "the file became shorter meanwhile", "upload it again")
        raise InvalidInput("the upload was stopped", [complaint])


def receive(http: httpx.Client, artefact: Artefact, target: Path) -> Path:
    """One try at fetching an artefact's content into the file `target`, which appears whole or not at all.

    The bytes go to a file beside it, which takes its place once length and SHA-256 are right. Raises `Conflict`
    where the artefact has no content yet, `InvalidInput` where the bytes are not the artefact's or the file cannot
    be written, `DiskFull`, and `TryAgain` where a new try can help.
    """
    if artefact.download_url is None:
        raise Conflict(f"artefact {artefact.id} is {artefact.state}: its upload was not completed")
    partial = target.with_name(f".vlyard-{uuid4().hex}.part")
    try:
        found = _stream(http, artefact.download_url, partial)
        if found != Fingerprint(artefact.bytes, artefact.sha256):
            raise InvalidInput(
                f"the content of artefact {artefact.id} was altered: its record says {artefact.bytes} bytes with "
                f"SHA-256 {artefact.sha256}, and {found.bytes} bytes with {found.sha256} came. Nothing was kept."
            )
        return partial.replace(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"the disk is full: there is no room for {target}") from error
        raise InvalidInput("the file cannot be written", [Complaint(str(target), str(error.strerror))]) from error
    finally:
        partial.unlink(missing_ok=True)


def _stream(http: httpx.Client, url: str, path: Path) -> Fingerprint:
    digest = hashlib.sha256()
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are stored
    with (
        path.open("xb") as file,
        connection_trouble("GET", httpx.URL(url)),
        http.stream("GET", url, headers=headers, timeout=STALLED, follow_redirects=True) as reply,
    ):
        if not reply.is_success:
            reply.read()
            raise refused(reply, PASSING_IN_S3)
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
