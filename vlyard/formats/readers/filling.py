# ruff: noqa: S608 - every statement is made of our own text
"""Filling a listing: every picture and every entry of a set, and which picture an entry means.

A picture is meant by its path as seen from the label file, from folders that lie where pictures usually do, and from
the set's root; then by the end of that path; then by its stem, since suffixes change; then by its name alone, where
only one picture of the set has it. It knows no label format.
"""

import pickle
import posixpath
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import TracebackType
from typing import NamedTuple

from vlyard.formats.picture import SUFFIXES
from vlyard.formats.readers.listing import SCHEMA, Entry, Listing, bytes_of, text_of
from vlyard.formats.readers.splits import split_of_folder
from vlyard.formats.reading import Stray, Wanted
from vlyard.formats.tree import Tree, is_picture

_PICTURES = ("images", "JPEGImages", "image", "imgs", "img", "pictures", "photos", "Images")
_LABELS = frozenset(
    [
        "annotations",
        "annotation",
        "labels",
        "label",
        "xml",
        "xmls",
        "json",
        "jsons",
        "labelme",
        "coco",
        "voc",
        "gts",
        "gt",
    ]
)  # what people call a folder of labels, in lower case
_NAMED = (
    "CREATE INDEX by_key ON pictures (key)",
    "CREATE INDEX by_name ON pictures (name)",
    "CREATE INDEX by_stem ON pictures (stem)",
)
_BY_ID = (
    "CREATE INDEX by_ident ON entries (source, ident)",
    "CREATE INDEX by_image ON annotations (source, image)",
)


class _Match(NamedTuple):
    picture: bytes | None
    weak: bool = False  # whether only the name says so
    candidates: int = 0


class Filling:
    """A listing that is being filled: `add` entries inside of `with`, then `listing` matches them."""

    def __init__(self, tree: Tree, wanted: Wanted, name: str) -> None:
        if wanted.scratch is None:
            raise ValueError("a listing needs a scratch folder")
        self.tree, self.file = tree, wanted.scratch / f"{name}.sqlite"
        self.file.unlink(missing_ok=True)
        self._base = sqlite3.connect(self.file, isolation_level=None)
        self._base.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE;" + SCHEMA)
        self._base.execute("BEGIN")
        self._base.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?, ?)", self._pictures())
        for statement in _NAMED:
            self._base.execute(statement)
        self._folders = {text_of(folder) for (folder,) in self._base.execute("SELECT DISTINCT folder FROM pictures")}
        self._folders |= {above for folder in self._folders for above in _above(folder)}

    def __enter__(self) -> "Filling":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()

    def add(self, entry: Entry) -> None:
        """Put an entry down; its place's file is the label file as the file system spells it."""
        width, height = entry.size or (None, None)
        self._base.execute(
            "INSERT INTO entries (source, label, line, entry, ident, written, stem, split, width, height, annotations,"
            " said, held) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                entry.source, bytes_of(entry.place.file), entry.place.line, entry.place.entry, entry.ident,
                bytes_of(entry.written), bytes_of(entry.stem), entry.split, width, height, entry.annotations,
                entry.said, entry.held,
            ),
        )  # fmt: skip

    def annotate(self, rows: Iterable[tuple[int, int, str, bytes]]) -> None:
        """Put annotations down that stand apart from their images: source, number, image's id, what is said."""
        self._base.executemany("INSERT INTO annotations (source, number, image, said) VALUES (?, ?, ?, ?)", rows)

    def stray(self, stray: Stray) -> None:
        """Put down a part of the set that makes no unit."""
        self._base.execute("INSERT INTO strays (stray) VALUES (?)", (pickle.dumps(stray),))

    def identify(self) -> None:
        """Find each image's annotations by its id, and the images that share one."""
        run = self._base.execute
        for statement in _BY_ID:
            run(statement)
        counted = "(SELECT count(*) FROM annotations WHERE source = entries.source AND image = ident)"
        run(f"UPDATE entries SET annotations = {counted}")
        earlier = "SELECT 1 FROM entries AS e WHERE e.source = entries.source AND e.ident = entries.ident"
        again = f"EXISTS ({earlier} AND e.written = entries.written AND e.row < entries.row)"
        run(f"UPDATE entries SET trouble = 'twice', annotations = 0 WHERE {again}")
        other = f"EXISTS ({earlier} AND e.written <> entries.written)"
        run(f"UPDATE entries SET trouble = 'id' WHERE trouble = '' AND {other}")
        run(f"UPDATE entries SET annotations = 0 WHERE trouble = 'id' AND EXISTS ({earlier} AND e.row < entries.row)")

    def listing(self, *, joined: bool, unlabelled: bool, listed_only: bool = False) -> Listing:
        """Match entries with pictures, and end the filling.

        Several entries of one picture are `joined` where they are of one split; else all but one are left out.
        """
        run = self._base.execute
        self._match()
        run("CREATE INDEX by_picture ON entries (picture)")
        for weak in (_WEAKER, _SHARED):
            run(
                "UPDATE entries SET picture = NULL, trouble = CASE WHEN held THEN 'held' ELSE 'missing' END"
                f" WHERE weak AND picture IN ({weak})"
            )
        if not joined:
            self._one_each()
        first = "SELECT min(row) FROM entries AS e WHERE e.picture = entries.picture AND e.trouble = ''"
        run(f"UPDATE entries SET first = ({first}) WHERE picture IS NOT NULL")
        run(
            "UPDATE entries SET trouble = 'twice' WHERE first <> row"
            " AND split <> (SELECT split FROM entries AS e WHERE e.row = entries.first)"
        )
        run("CREATE INDEX by_first ON entries (first)")
        run("COMMIT")
        return Listing(self.tree, self.file, unlabelled, listed_only)

    def _pictures(self) -> Iterator[tuple[bytes, ...]]:
        for folder, names in self.tree.folders():
            place = self.tree.name(folder)
            for name in filter(is_picture, names):
                path = posixpath.join(place, name)
                keys = (path, place, name, posixpath.splitext(name)[0])
                yield (bytes_of(path), *(bytes_of(_normal(key)) for key in keys))

    # --- which picture is meant -------------------------------------------------------------------------------

    def _match(self) -> None:
        bases = lru_cache(maxsize=4096)(self._bases)
        for row, label, written, stem, split, held in self._unmatched():
            folder = posixpath.dirname(_normal(text_of(label)))
            match = self._located(_normal(text_of(written)), _normal(text_of(stem)), bases(folder, split))
            trouble = ""
            if match.picture is None:
                trouble = "held" if held else "ambiguous" if match.candidates > 1 else "missing"
            place = posixpath.dirname(text_of(match.picture or b""))
            chosen = split or split_of_folder(folder) or split_of_folder(place) or "train"
            self._base.execute(
                "UPDATE entries SET picture = ?, weak = ?, candidates = ?, split = ?, trouble = ? WHERE row = ?",
                (match.picture, match.weak, match.candidates, chosen, trouble, row),
            )

    def _unmatched(self) -> Iterator[tuple[int, bytes, bytes, bytes, str, int]]:
        last = 0
        while rows := self._base.execute(
            "SELECT row, label, written, stem, split, held FROM entries WHERE trouble = '' AND row > ?"
            " ORDER BY row LIMIT 1000",
            (last,),
        ).fetchall():
            yield from rows
            last = rows[-1][0]

    def _one_each(self) -> None:
        """Of the labels of one picture, the one that has its name keeps it; others may mean the one that has theirs."""
        contested = self._base.execute("SELECT picture FROM entries GROUP BY picture HAVING count(picture) > 1")
        for (picture,) in contested.fetchall():
            rows = self._base.execute(
                "SELECT row, label, stem, split FROM entries WHERE picture = ? ORDER BY row", (picture,)
            ).fetchall()
            own = bytes_of(_stem(_normal(text_of(picture))))
            keeper = next((row[0] for row in rows if row[2] == own), rows[0][0])
            for row, label, stem, split in rows:
                if row == keeper:
                    continue
                folder = posixpath.dirname(_normal(text_of(label)))
                match = self._located("", _normal(text_of(stem)), self._bases(folder, split))
                taken = "SELECT 1 FROM entries WHERE picture = ?"
                if match.picture is None or self._base.execute(taken, (match.picture,)).fetchone():
                    self._base.execute("UPDATE entries SET trouble = 'twice' WHERE row = ?", (row,))
                else:
                    self._base.execute("UPDATE entries SET picture = ?, weak = 0 WHERE row = ?", (match.picture, row))

    def _located(self, written: str, stem: str, bases: tuple[str, ...]) -> _Match:
        """The picture that a path means; empty ones mean none."""
        written = written.replace("\\", "/")
        parts = [part for part in written.split("/") if part not in {"", ".", ".."} and not part.endswith(":")]
        for base in bases if parts else ():
            if found := self._at(posixpath.normpath(posixpath.join(base, written))):
                return _Match(found, candidates=1)
        for skipped in range(len(parts)):
            for base in bases:
                if found := self._at(posixpath.join(base, *parts[skipped:])):
                    return _Match(found, weak=0 < skipped == len(parts) - 1, candidates=1)
        inner = posixpath.join("", *parts[:-1])
        stems = list(dict.fromkeys(filter(None, [*_stems(parts[-1] if parts else ""), stem])))
        folders = [place for base in bases for place in dict.fromkeys((posixpath.join(base, inner).rstrip("/"), base))]
        for each in stems:
            for folder in folders:
                if found_here := self._all("folder = ? AND stem = ?", folder, each):
                    return self._only(found_here, weak=False)
        tries = [("name = ?", parts[-1])] if parts else []
        for condition, value in [*tries, *(("stem = ?", each) for each in stems)]:
            if anywhere := self._all(condition, value):
                return self._only(anywhere, weak=True)
        return _Match(None)

    def _at(self, path: str) -> bytes | None:
        return next(iter(self._all("key = ?", path)), None)

    def _all(self, condition: str, *values: str) -> list[bytes]:
        query = f"SELECT path FROM pictures WHERE {condition} ORDER BY path LIMIT 100"
        return [path for (path,) in self._base.execute(query, [bytes_of(value) for value in values])]

    def _only(self, found: list[bytes], weak: bool) -> _Match:
        return _Match(found[0] if len(found) == 1 else None, weak, len(found))

    def _bases(self, folder: str, split: str) -> tuple[str, ...]:
        """The folders from which a label's paths are tried: from its own to the set's root, its split's own first."""
        above = posixpath.dirname(folder)
        places = []
        for near in dict.fromkeys((folder, *_parallel(folder), above, "")):
            for place in (near, *(posixpath.join(near, name) for name in _PICTURES)):
                if place in self._folders or place in {folder, above, ""}:
                    places += [*self._of_split(place, split), place]
        return tuple(dict.fromkeys(places))

    def _of_split(self, folder: str, split: str) -> list[str]:
        """The folders right in another one whose names say that they hold a split's pictures."""
        inside = (each for each in self._folders if posixpath.dirname(each) == folder and each)
        return sorted(each for each in inside if split and split_of_folder(posixpath.basename(each)) == split)


_WEAKER = "SELECT picture FROM entries WHERE NOT weak AND picture IS NOT NULL"
_SHARED = "SELECT picture FROM entries WHERE weak GROUP BY picture HAVING count(DISTINCT written || x'00' || stem) > 1"


def _normal(name: str) -> str:
    """Names that look alike are alike: some systems take accents apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _above(folder: str) -> Iterator[str]:
    while folder:
        folder = posixpath.dirname(folder)
        yield folder


def _parallel(folder: str) -> Iterator[str]:
    """Where the pictures of a folder of labels may be: `JPEGImages/a` for `Annotations/a`."""
    parts = folder.split("/")
    for place, part in enumerate(parts):
        if part.lower() in _LABELS:
            for name in (*_PICTURES, ""):
                yield posixpath.join("", *parts[:place], name, *parts[place + 1 :]).rstrip("/")


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def _stems(name: str) -> tuple[str, ...]:
    """What a written name is without its suffix, which may be another one than the picture's, or missing."""
    stem, suffix = posixpath.splitext(name)
    return (stem,) if suffix.lower() in SUFFIXES else (name, stem)
