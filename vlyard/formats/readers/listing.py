# ruff: noqa: S608 - every statement is made of our own text
"""What label files say of pictures, put on disk: entries, the pictures that they mean, and what has no partner.

A reader fills it once, in one process. Every process then reads it, so that memory does not grow with the set. It knows
no label format.
"""

import os
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlyard.formats import faults
from vlyard.formats.faults import Finding
from vlyard.formats.readers.splits import ORDER
from vlyard.formats.reading import Place, Stray, Unit
from vlyard.formats.tree import Tree, storable

SCHEMA = """
CREATE TABLE pictures (path BLOB PRIMARY KEY, key BLOB, folder BLOB, name BLOB, stem BLOB) WITHOUT ROWID;
CREATE TABLE entries (
    row INTEGER PRIMARY KEY, source INTEGER, label BLOB, line INTEGER, entry TEXT, ident TEXT, written BLOB, stem BLOB,
    split TEXT, width REAL, height REAL, annotations INTEGER, said BLOB, held INTEGER,
    picture BLOB, weak INTEGER DEFAULT 0, candidates INTEGER DEFAULT 0, first INTEGER, trouble TEXT DEFAULT ''
);
CREATE TABLE annotations (row INTEGER PRIMARY KEY, source INTEGER, number INTEGER, image TEXT, said BLOB);
CREATE TABLE strays (row INTEGER PRIMARY KEY, stray BLOB);
"""
_WHEN = " ".join(f"WHEN '{name}' THEN {rank}" for rank, name in enumerate(ORDER))
_RANK = f"CASE split {_WHEN} END"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a label file says of one picture."""

    place: Place
    written: str = ""  # how it names the picture; empty: only by `stem`
    stem: str = ""  # what the picture may be called besides, without its suffix
    split: str = ""  # empty: what the picture's folder says
    source: int = 0  # the reader's number of the file, where it has annotations apart
    ident: str = ""  # the image's id in that file
    size: tuple[float, float] | None = None  # that the label says, in pixels
    annotations: int = 0
    said: bytes = b""  # what the reader wants back
    held: bool = False  # whether the label file holds the picture itself
    label: str = ""  # the label file as the file system spells it, in entries that come from a listing

    def of_split(self, split: str) -> "Entry":
        """The same entry for a split that something else says."""
        return replace(self, split=split)


@dataclass(frozen=True)
class Listing:
    """A filled listing. A plain value: each process opens the file for itself."""

    tree: Tree
    file: Path
    unlabelled: bool  # whether pictures beside those that have labels are pictures without objects
    listed_only: bool = False  # whether a picture that no entry names belongs to no split

    def splits(self) -> tuple[str, ...]:
        """Those of the pictures that were found; train where there are none."""
        with self._opened() as base:
            rows = base.execute(
                f"SELECT DISTINCT split FROM entries WHERE first = row OR trouble = 'held' ORDER BY {_RANK}"
            ).fetchall()
        return tuple(split for (split,) in rows) or ("train",)

    def entries(self, key: int) -> list[Entry]:
        """All entries of a unit's picture, in their order."""
        with self._opened() as base:
            return [
                _entry(row) for row in base.execute(f"{_ENTRY} WHERE first = ? AND trouble = '' ORDER BY row", (key,))
            ]

    def annotations(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """The annotations of an image that stand apart from it: their numbers in the file, and what they say."""
        with self._opened() as base:
            yield from base.execute(
                "SELECT number, said FROM annotations WHERE source = ? AND image = ? ORDER BY number",
                (entry.source, entry.ident),
            )

    def units(self) -> Iterator[Unit | Stray]:
        """As `Reader.units`; annotations without an image excepted."""
        root = f"{str(self.tree.root).rstrip('/')}/"
        with self._opened() as base:
            for row, picture, split, label in base.execute(
                f"SELECT row, picture, split, label FROM entries WHERE first = row ORDER BY {_RANK}, row"
            ):
                yield Unit(text_of(picture), root + text_of(picture), split, root + text_of(label), row)
            if self.unlabelled and not self.listed_only:
                for picture, split in base.execute(_BESIDE):
                    yield Unit(text_of(picture), root + text_of(picture), split)
            yield from self._strays(base)

    def shared(self) -> list[tuple[int, int, int, int]]:
        """Files that name the same pictures for the same split: two numbers, how many, and out of how many."""
        with self._opened() as base:
            return base.execute(
                "SELECT f.source, e.source, count(*), (SELECT count(*) FROM entries AS a WHERE a.source = e.source)"
                " FROM entries AS e JOIN entries AS f ON f.row = e.first"
                " WHERE e.source <> f.source AND e.trouble = '' GROUP BY 1, 2 ORDER BY 1, 2"
            ).fetchall()

    def lost(self) -> Iterator[tuple[int, int, str]]:
        """Annotations whose image no entry has: the number of the file, their own there, and the image's id."""
        with self._opened() as base:
            yield from base.execute(
                "SELECT source, number, image FROM annotations AS a WHERE NOT EXISTS"
                " (SELECT 1 FROM entries WHERE source = a.source AND ident = a.image) ORDER BY row"
            )

    def held(self) -> Iterator[tuple[int, Entry]]:
        """The entries, with their keys, whose picture is nowhere but in the label file."""
        with self._opened() as base:
            for row in base.execute(f"{_ENTRY} WHERE trouble = 'held' ORDER BY {_RANK}, row"):
                yield row[-1], _entry(row)

    def _strays(self, base: sqlite3.Connection) -> Iterator[Stray]:
        for row in base.execute(f"{_ENTRY} WHERE trouble NOT IN ('', 'held') ORDER BY row"):
            yield _stray(_entry(row), *row[-4:-1])
        for (stray,) in base.execute("SELECT stray FROM strays ORDER BY row"):
            yield pickle.loads(stray)  # noqa: S301  # our own, from our own scratch folder
        beside = f"AND path NOT IN (SELECT path FROM ({_BESIDE}))" if self.unlabelled and not self.listed_only else ""
        for (picture,) in base.execute(f"{_UNCLAIMED} {beside} ORDER BY path"):
            yield Stray(Place(storable(text_of(picture))), faults.UNLISTED.found())

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        status = self.file.stat()
        yield _connection(str(self.file), status.st_ino, status.st_mtime_ns, os.getpid())


@lru_cache(maxsize=1)
def _connection(file: str, *identity: int) -> sqlite3.Connection:
    """A process's own connection to a file as it is: opening one takes longer than reading what a picture has."""
    del identity
    return sqlite3.connect(f"{Path(file).as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


_ENTRY = (
    "SELECT label, line, entry, written, stem, split, source, ident, width, height, annotations, said,"
    " trouble, candidates, (SELECT split FROM entries AS other WHERE other.row = entries.first), row FROM entries"
)
_UNCLAIMED = "SELECT path FROM pictures WHERE path NOT IN (SELECT picture FROM entries WHERE picture IS NOT NULL)"
_BESIDE = f"""
SELECT path, homes.split FROM pictures JOIN (
    SELECT folder, split, min(row) FROM entries JOIN pictures ON path = picture WHERE first = row GROUP BY folder
) AS homes USING (folder)
WHERE path IN ({_UNCLAIMED}) ORDER BY path
"""


def _entry(row: tuple[Any, ...]) -> Entry:
    label, line, entry, written, stem, split, source, ident, width, height, annotations, said = row[:12]
    size = None if width is None else (width, height)
    place = Place(storable(text_of(label)), line, entry)
    return Entry(
        place, text_of(written), text_of(stem), split, source, ident, size, annotations, said, label=text_of(label)
    )


def _stray(entry: Entry, trouble: str, candidates: int, split: str | None) -> Stray:
    name = storable(entry.written or entry.stem)
    finding: Finding
    match trouble:
        case "missing" if entry.written:
            finding = faults.PICTURE_MISSING.found(name=name)
        case "missing" if entry.stem:
            finding = faults.ORPHAN_LABEL.found()
        case "missing":
            finding = faults.ENTRY_UNUSABLE.found(damage="it does not say which picture it means")
        case "ambiguous":
            finding = faults.PICTURE_AMBIGUOUS.found(name=name, count=candidates)
        case "id":
            finding = faults.ID_TWICE.found(id=entry.ident)
        case _:
            finding = faults.LISTED_TWICE.found(split=split or entry.split)
    return Stray(entry.place, finding, picture=trouble != "twice", annotations=entry.annotations)


def text_of(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def bytes_of(name: str) -> bytes:
    """What SQLite can hold of any name: a file's may have bytes that are no UTF-8, a JSON's half characters."""
    return name.encode("utf-8", "surrogatepass")
