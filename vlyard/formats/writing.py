"""What every output format has in common: the pieces that its files grow from. It knows no format.

Pieces are made in several processes at once, and put together in one, in the order of the records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vlyard.formats.record import Question, Record

OUTLINES: Mapping[str, str] = {"polygon": "outlines"}
KEYPOINTS: Mapping[str, str] = {"keypoints": "keypoints"}


@dataclass(frozen=True, slots=True)
class Piece:
    """What a record adds to one of the output's files."""

    file: str  # from the output's folder, with forward slashes
    entries: tuple[bytes, ...]  # what the file's frame puts separators between; the whole content where it has no frame


@dataclass(frozen=True, slots=True)
class Frame:
    """How a file that grows is held together."""

    head: bytes = b""
    between: bytes = b""
    tail: bytes = b""
    number: bytes = b""  # a pattern such as b'{"id":%d,' put before each entry with its number, from 1; empty: none


@dataclass(frozen=True)
class Made:
    """What was made, for a writer to finish with."""

    folder: Path
    splits: tuple[str, ...]  # with at least one record, the main one first
    classes: Mapping[int, str]  # the output's classes by their new ids, 0..n-1, in the source's order


class Writer(Protocol):
    """One output format. A plain value that can be pickled; made from the options before anything is read."""

    @property
    def unique_stems(self) -> bool:
        """Whether two pictures of a folder must not differ by their suffix alone."""

    @property
    def negatives(self) -> bool:
        """Whether pictures without objects, and questions without an answer, are written."""

    @property
    def drops(self) -> Mapping[str, str]:
        """Fields of targets that the format does not hold, and what people call them."""

    def place(self, split: str, name: str) -> str:
        """Where the output keeps a picture: a path from its folder."""

    def frame(self, file: str) -> Frame | None:
        """How a file is held together; None for one that a single piece is the whole of."""

    def render(self, record: Record, questions: Sequence[Question]) -> Sequence[Piece]:
        """What a record adds. Of an output without samples, `questions` is empty."""

    def finish(self, made: Made) -> Mapping[str, str]:
        """Write what describes the whole; returns the name of each split's data set (or file), by split."""
