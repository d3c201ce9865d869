"""Directories between a worker's disk and the artefact store: fetched whole, stored file by file.

What is fetched is checked against the manifest, and the manifest against the artefact.
"""

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from uuid_utils.compat import uuid7

from vlyard.errors import Complaint, InvalidInput
from vlyard.files import ArtefactKind, Stored
from vlyard.trees import (
    MANIFEST,
    MANIFEST_TYPE,
    MEDIA_TYPE,
    TreeFile,
    file_key,
    manifest_of,
    read_manifest,
    scan,
    sha256_hex,
)

_AT_ONCE = 4
_OCTETS = "application/octet-stream"
T = TypeVar("T")


class Store(Protocol):
    """The part of the artefact store that a handler's context needs."""

    def fetch(self, file: Stored, path: Path) -> None:
        """Write the file's content to `path`; raises `Unavailable`, or `InvalidInput` where it was altered."""

    def put(self, key: str, path: Path, media_type: str) -> tuple[int, str]:
        """Store a file under a key; returns its length in bytes and its SHA-256 in hexadecimal."""


def fetch_tree(store: Store, tree: Stored, folder: Path, check: Callable[[], None]) -> None:
    """Write a tree's files below a folder, which appears whole or not at all; `check` raises when it is time to stop.

    Raises `Unavailable`, or `InvalidInput` where the manifest or a file was altered.
    """
    partial = folder.with_name(f".{folder.name}.part")
    listing = folder.with_name(f"{folder.name}.{MANIFEST}")
    store.fetch(tree, listing)
    files = read_manifest(listing.read_bytes())
    same: dict[str, list[TreeFile]] = {}
    for file in files:
        (partial / file.path).parent.mkdir(parents=True, exist_ok=True)
        same.setdefault(file.sha256, []).append(file)

    def fetch(equal: list[TreeFile]) -> None:
        check()
        first, *others = equal
        key = file_key(tree.key, first.sha256)
        file = replace(tree, name=first.path, key=key, bytes=first.bytes, sha256=first.sha256, kind=ArtefactKind.FILE)
        store.fetch(file, partial / first.path)
        for other in others:
            shutil.copyfile(partial / first.path, partial / other.path)

    _all(fetch, same.values())
    partial.rename(folder)


def store_tree(store: Store, folder: Path, place: str, *, listing: Path, check: Callable[[], None]) -> Stored:
    """Store all files below a folder as one tree, its keys beginning with `place`; the manifest comes last.

    `listing` is a file that may be written for that, and takes no part in it. `check` raises when it is time to stop.
    Raises `InvalidInput` that names what cannot be in a tree.
    """
    files = scan(folder, check)
    manifest = manifest_of(files)
    key = f"{place}/{MANIFEST}"

    def put(file: TreeFile) -> None:
        check()
        if store.put(file_key(key, file.sha256), folder / file.path, _OCTETS) != (file.bytes, file.sha256):
            what = "it changed while it was stored"
            raise InvalidInput(complaints=[Complaint(file.path, what, "publish the folder when it is complete")])

    _all(put, {file.sha256: file for file in files}.values())
    listing.write_bytes(manifest)
    store.put(key, listing, MANIFEST_TYPE)
    listing.unlink()
    size = sum(file.bytes for file in files)
    return Stored(uuid7(), Path(place).name, MEDIA_TYPE, key, size, sha256_hex(manifest), ArtefactKind.TREE)


def _all(work: Callable[[T], None], things: Iterable[T]) -> None:
    """Do the work for each, some at once; after the first error nothing more begins."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        try:
            for task in [threads.submit(work, thing) for thing in things]:
                task.result()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
