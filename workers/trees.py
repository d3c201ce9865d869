"""Directories between a worker's disk and the artefact store: fetched whole, stored file by file.

What is fetched is checked against the manifest, and the manifest against the artefact.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
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

    def fetch_each(self, files: Mapping[Path, Stored], told: Callable[[int], None]) -> None:
        """The same for many files at once.

        `told` hears several times a second how many bytes have come, and raises when it is time to stop; then what has
        arrived whole stays.
        """

    def put(self, key: str, path: Path, media_type: str) -> tuple[int, str]:
        """Store a file under a key; returns its length in bytes and its SHA-256 in hexadecimal."""


def _unheard(_: int) -> None:
    """Nobody wants to know how far it is."""


def fetch_tree(
    store: Store, tree: Stored, folder: Path, check: Callable[[], None], told: Callable[[int], None] = _unheard
) -> None:
    """Write a tree's files below a folder, which appears whole or not at all; `check` raises when it is time to stop.

    `told` hears now and then how many bytes are there. Files that an earlier try brought there whole are not fetched
    again. Raises `Unavailable`, or `InvalidInput` where
    the manifest or a file was altered.
    """
    arriving, whole = (folder.with_name(f".{folder.name}.{stage}") for stage in ("arriving", "whole"))
    arriving.mkdir(parents=True, exist_ok=True)
    for left in arriving.glob("*.part"):
        left.unlink()
    listing = arriving / MANIFEST
    store.fetch(tree, listing)
    same: dict[str, list[TreeFile]] = {}
    for file in read_manifest(listing.read_bytes()):
        same.setdefault(file.sha256, []).append(file)
    # A file gets the name of its digest once it is right, so what has that name is.
    wanted = {arriving / digest: _file_of(tree, equal[0]) for digest, equal in same.items()}
    lacking = {path: file for path, file in wanted.items() if not path.exists()}
    there = sum(file.bytes for path, file in wanted.items() if path not in lacking)

    def hear(came: int) -> None:
        check()
        told(there + came)

    store.fetch_each(lacking, hear)
    shutil.rmtree(whole, ignore_errors=True)
    for digest, equal in same.items():
        _put_in_place(arriving / digest, [whole / file.path for file in equal])
    shutil.rmtree(arriving)
    whole.rename(folder)


def _file_of(tree: Stored, file: TreeFile) -> Stored:
    key = file_key(tree.key, file.sha256)
    return replace(tree, name=file.path, key=key, bytes=file.bytes, sha256=file.sha256, kind=ArtefactKind.FILE)


def _put_in_place(content: Path, targets: Sequence[Path]) -> None:
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    first, *others = targets
    content.rename(first)
    for other in others:
        shutil.copyfile(first, other)


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
