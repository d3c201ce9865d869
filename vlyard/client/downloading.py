"""Downloads: a file, a tree file by file, or a tree as one zip. What arrives is checked before it is there."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from vlyard.client import transfer
from vlyard.client.partial import partial_of
from vlyard.client.patience import Patience, TryAgain, connection_trouble, persist
from vlyard.client.transfer import Fingerprint, Told
from vlyard.client.wire import Wire
from vlyard.errors import Conflict, InvalidInput, Unavailable, UserError
from vlyard.files import ArtefactKind, sha256_of
from vlyard.jobs.view import Artefact, ManifestEntry, ManifestPage
from vlyard.trees import TreeFile

AT_ONCE = 4
PAGE = 200  # files of which links are asked for at once
LISTING = 60.0  # seconds that the API may take to read a manifest


def download(wire: Wire, id: UUID, path: Path | str, *, as_zip: bool, told: Told) -> Path:
    """Fetch an artefact to where `path` says; returns the file or the folder."""

    def look() -> Artefact:
        return wire.call(Artefact, "GET", f"/v1/artefacts/{id}")

    artefact = look()
    if artefact.state != "ready":
        raise Conflict(f"artefact {id} is {artefact.state}: its upload was not completed")
    if as_zip:
        return _zip(wire, artefact, path, told)
    if artefact.kind is ArtefactKind.TREE:
        return _tree(wire, artefact, path, told)
    target = transfer.place(path, artefact.name)
    expected = Fingerprint(artefact.bytes, artefact.sha256)

    def receive(told: Told) -> Path:  # the link is short-lived, so each try asks for a fresh one
        return transfer.receive(wire.http, look().download_url or "", target, expected, f"artefact {id}", told=told)

    return persist(lambda _: _going_on(receive, told), Patience(tries=transfer.TRIES))


def files(wire: Wire, id: UUID) -> Iterator[TreeFile]:
    """The files of a tree, by path."""
    after: int | None = 0
    while after is not None:
        page = _page(wire, id, after, links=False)
        yield from (TreeFile(path=entry.path, bytes=entry.bytes, sha256=entry.sha256) for entry in page.data)
        after = page.next_after


class _Sum:
    """How far a tree's files are, together; they come several at once."""

    def __init__(self, total: int, told: Told) -> None:
        self._total = total
        self._told = told
        self._there: dict[str, int] = {}
        self._sum = 0
        self._lock = threading.Lock()

    def of(self, path: str) -> Told:
        def told(there: int, _total: int) -> None:
            with self._lock:
                self._sum += there - self._there.get(path, 0)
                self._there[path] = there
                self._told(self._sum, self._total)

        return told


def _tree(wire: Wire, artefact: Artefact, path: Path | str, told: Told) -> Path:
    # A folder that is named is the tree's own: it may be there from a download that was cut short.
    folder = transfer.place(path, artefact.name) if Path(path) == Path() else Path(path)
    progress = _Sum(artefact.bytes, told)
    after: int | None = 0
    while after is not None:
        page, start = _page(wire, artefact.id, after, links=True), after
        with ThreadPoolExecutor(AT_ONCE) as threads:
            tasks = [
                threads.submit(_file, wire, artefact.id, start + at, entry, folder, told=progress.of(entry.path))
                for at, entry in enumerate(page.data)
            ]
            try:
                for task in tasks:
                    task.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
        after = page.next_after
    return folder


def _file(wire: Wire, id: UUID, at: int, entry: ManifestEntry, folder: Path, *, told: Told) -> None:
    target = folder / entry.path
    expected = Fingerprint(entry.bytes, entry.sha256)
    if _is_there(target, expected):
        told(entry.bytes, entry.bytes)
        return
    transfer.make_folder(target.parent)
    urls = iter([entry.url])

    def receive(told: Told) -> Path:  # the first link may have expired while the files before it came
        url = next(urls, None) or _page(wire, id, at, links=True, limit=1).data[0].url
        try:
            return transfer.receive(wire.http, url or "", target, expected, f"{entry.path} of artefact {id}", told=told)
        except InvalidInput:
            raise
        except UserError as refusal:
            raise TryAgain(refusal) from refusal

    persist(lambda _: _going_on(receive, told), Patience(tries=transfer.TRIES))


def _going_on(receive: Callable[[Told], Path], told: Told) -> Path:
    """One try that is not over as long as every lost connection had brought something: it goes on from there."""
    farthest = 0

    def note(there: int, total: int) -> None:
        nonlocal farthest
        farthest = max(farthest, there)
        told(there, total)

    while True:
        before = farthest
        try:
            return receive(note)
        except TryAgain:
            if farthest <= before:
                raise


def _is_there(path: Path, expected: Fingerprint) -> bool:
    try:
        return path.is_file() and path.stat().st_size == expected.bytes and sha256_of(path) == expected.sha256
    except OSError:
        return False


def _zip(wire: Wire, artefact: Artefact, path: Path | str, told: Told) -> Path:
    target = transfer.place(path, f"{artefact.name}.zip")
    url = wire.http.base_url.join(f"/v1/artefacts/{artefact.id}/zip")

    def once(_: float) -> Path:
        stream = wire.http.stream("GET", url, headers=wire.headers("GET", None), timeout=transfer.STALLED)
        with partial_of(target) as partial, connection_trouble("GET", url), stream as reply:
            expected = int(reply.headers.get("Content-Length", -1))
            transfer.keep(reply, partial, expected, told)
            if partial.bytes != expected:
                raise TryAgain(Unavailable(f"the zip broke off after {partial.bytes} of {expected} bytes"))
            partial.settle(target)
        return target

    return persist(once, Patience(tries=transfer.TRIES))


def _page(wire: Wire, id: UUID, after: int, *, links: bool, limit: int = PAGE) -> ManifestPage:
    asked = {"after": str(after), "limit": str(limit), "links": str(links).lower()}
    return wire.call(ManifestPage, "GET", f"/v1/artefacts/{id}/manifest", params=asked, patience=LISTING)
