"""A file as it lies in the artefact store, and its checksum."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID


@dataclass(frozen=True)
class Stored:
    """A file in the artefact store, and what its bytes must be."""

    id: UUID
    name: str
    media_type: str
    key: str
    bytes: int
    sha256: str  # hexadecimal


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; reads it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
