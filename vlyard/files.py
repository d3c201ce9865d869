"""A file or a tree of files as it lies in the artefact store, and its checksum."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import UUID


class ArtefactKind(StrEnum):
    FILE = "file"
    TREE = "tree"  # a directory: many files and their manifest


@dataclass(frozen=True)
class Stored:
    """An artefact in the store, and what its bytes must be.

    A tree's `key` and `sha256` are its manifest's, and its `bytes` are those of its files together.
    """

    id: UUID
    name: str
    media_type: str
    key: str
    bytes: int
    sha256: str  # hexadecimal
    kind: ArtefactKind = ArtefactKind.FILE


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; reads it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
