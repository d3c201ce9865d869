"""Uploads: announcing them, and sending what is missing, several pieces at once, until nothing is.

What is missing is asked again and again: what an earlier run has sent, or
another process sends, is never sent twice, and links that expired are replaced.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from vlyard.client import transfer
from vlyard.client.patience import Patience, persist
from vlyard.client.problems import invalid
from vlyard.client.transfer import Told
from vlyard.client.wire import Wire
from vlyard.errors import InvalidInput, UserError, VLyardError
from vlyard.jobs.view import Artefact, Missing, NewArtefact, NewTree, Piece
from vlyard.trees import scan

AT_ONCE = 3
LOOK = 256  # pieces of which links are asked for at once
LISTING = 60.0  # seconds that the API may take to find out what is missing
CHECKING, CHECKED_A_SECOND = 300.0, 50e6  # seconds and bytes a second that it may take to read an upload once more
CHECKING_A_FILE = 0.05  # seconds, of a tree
_LIFE_USED = 0.8  # of a link's life, after which no transfer begins with it

N = TypeVar("N", bound=BaseModel)


def upload_file(wire: Wire, path: Path, name: str | None, media_type: str | None, told: Told) -> Artefact:
    """Announce a file, send what the API has not of it, and complete the upload."""
    found = transfer.fingerprint(path)
    facts = {"name": path.name if name is None else name, "bytes": found.bytes, "sha256": found.sha256}
    kind = media_type or transfer.media_type(path)
    new = _checked(NewArtefact, path, {**facts, "media_type": kind, "resume": True})
    artefact = wire.call(Artefact, "POST", "/v1/artefacts", body=new)
    target = artefact.upload
    if target is None:
        return _finish(wire, artefact, lambda _: path, told, _patience([found.bytes]))
    send = partial(transfer.send, wire.http, target, path, found.bytes, told=told)
    persist(lambda _: send(), Patience(tries=transfer.TRIES))
    told(found.bytes, found.bytes)
    return _complete(wire, artefact, _patience([found.bytes]))


def upload_folder(wire: Wire, folder: Path, name: str | None, told: Told) -> Artefact:
    """Announce a folder with all its files, send what the API has not of it, and complete the upload."""
    name = folder.resolve().name if name is None else name
    new = _checked(NewTree, folder, {"name": name, "files": tuple(scan(folder)), "resume": True})
    artefact = wire.call(Artefact, "POST", "/v1/artefacts:tree", body=new, patience=LISTING)
    patience = _patience([file.bytes for file in new.files])
    return _finish(wire, artefact, lambda piece: folder / str(piece.path), told, patience)


def _checked(kind: type[N], path: Path, facts: dict[str, object]) -> N:
    try:
        return kind(**facts)
    except ValidationError as error:
        raise invalid(error, f"the upload of {path}") from error


def _patience(lengths: Sequence[int]) -> float:
    """Seconds that the API may take to check files of these lengths."""
    return CHECKING + CHECKING_A_FILE * len(lengths) + sum(lengths) / CHECKED_A_SECOND


def _finish(wire: Wire, artefact: Artefact, place: Callable[[Piece], Path], told: Told, patience: float) -> Artefact:
    def look() -> Missing:
        path, asked = f"/v1/artefacts/{artefact.id}/upload", {"limit": str(LOOK)}
        return wire.call(Missing, "GET", path, params=asked, patience=LISTING)

    send_missing(wire.http, look, place, artefact.bytes, told)
    return _complete(wire, artefact, patience)


def _complete(wire: Wire, artefact: Artefact, patience: float) -> Artefact:
    return wire.call(Artefact, "POST", f"/v1/artefacts/{artefact.id}/complete", patience=patience)


def send_missing(
    http: httpx.Client, look: Callable[[], Missing], place: Callable[[Piece], Path], total: int, told: Told
) -> None:
    """Send what `look` says is missing, from the files that `place` names, until it says that nothing is.

    Raises what `transfer.send` does, what the store said where it refuses everything, and `VLyardError` where it takes
    what is sent and does not have it afterwards.
    """
    before: int | None = None
    refusal: UserError | None = None
    while True:
        missing = look()
        told(total - missing.bytes, total)
        if not missing.data:
            return
        if before is not None and missing.pieces >= before:
            said = f"nothing of what was sent has arrived: {missing.pieces} pieces are still missing"
            raise refusal or VLyardError(said)
        before = missing.pieces
        refusal = _Sending(http, place, told, total, total - missing.bytes).send(missing)


class _Sending:
    """The pieces of one answer on their way."""

    def __init__(self, http: httpx.Client, place: Callable[[Piece], Path], told: Told, total: int, there: int) -> None:
        self._http = http
        self._place = place
        self._told = told
        self._total = total
        self._there = there
        self._under_way: dict[str, int] = {}  # bytes that have left, of the pieces that have not arrived, by their URLs
        self._refusal: UserError | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def send(self, missing: Missing) -> UserError | None:
        """Send them, each while its link works. Returns the last refusal of the store: a link that has expired, say."""
        until = time.monotonic() + missing.expires_in * _LIFE_USED
        with ThreadPoolExecutor(AT_ONCE) as threads:
            try:
                list(threads.map(lambda piece: self._send(piece, until), _longest_first(missing.data)))
            finally:  # also after Ctrl-C: nobody waits for what is left
                self._stopped.set()
                threads.shutdown(wait=False, cancel_futures=True)
        return self._refusal

    def _send(self, piece: Piece, until: float) -> None:
        if time.monotonic() > until or self._stopped.is_set():
            return
        send = partial(transfer.send, self._http, piece, self._place(piece), piece.bytes, offset=piece.offset)
        try:
            persist(
                lambda _: send(stopped=self._stopped.is_set, told=lambda left, _total: self._tell(piece, left=left)),
                Patience(tries=transfer.TRIES),
            )
        except InvalidInput:
            raise
        except UserError as refusal:
            self._refusal = refusal
            self._tell(piece)
            return
        self._tell(piece, arrived=piece.bytes)

    def _tell(self, piece: Piece, *, left: int = 0, arrived: int = 0) -> None:
        """Tell how far the upload is, now that so many bytes of the piece have left, or have arrived."""
        with self._lock:
            self._there += arrived
            self._under_way[piece.url] = left
            self._told(self._there + sum(self._under_way.values()), self._total)


def _longest_first(pieces: Sequence[Piece]) -> Sequence[Piece]:
    return sorted(pieces, key=lambda piece: -piece.bytes)
