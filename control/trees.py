"""Directories in the artefact store, for who reads them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from control.artefacts import ArtefactStore
from vlyard.errors import Unavailable
from vlyard.files import ArtefactKind, Stored
from vlyard.trees import MANIFEST, MANIFEST_TYPE, TreeFile, file_key, read_manifest, sha256_hex


def files_of(store: ArtefactStore, tree: Stored) -> Sequence[TreeFile]:
    """The files of a tree, in the order of its manifest; raises `Unavailable` where the manifest is not the tree's."""
    content = b"".join(store.read(tree.key))
    if sha256_hex(content) != tree.sha256:
        raise Unavailable(f"the manifest of {tree.name} was altered after it was stored")
    return read_manifest(content)


def content_of(store: ArtefactStore, tree: Stored, file: TreeFile) -> Iterator[bytes]:
    """The content of a file of the tree, in pieces."""
    return store.read(file_key(tree.key, file.sha256))


def link_to(store: ArtefactStore, tree: Stored, file: TreeFile) -> str:
    """A URL that serves a file of the tree under its own name for a while."""
    key, name = file_key(tree.key, file.sha256), PurePosixPath(file.path).name
    return store.download_link(
        replace(tree, key=key, name=name, media_type="application/octet-stream", kind=ArtefactKind.FILE)
    )


def manifest_link(store: ArtefactStore, tree: Stored) -> str:
    """A URL that serves the tree's manifest for a while."""
    return store.download_link(replace(tree, name=f"{tree.name}.{MANIFEST}", media_type=MANIFEST_TYPE))
