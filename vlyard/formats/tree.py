"""A data set's folder: walking it in a fixed order, and finding what a path in a list meant.

Paths never lead out of the folder, whatever a file inside says. Names that begin with a dot, and the folders that
archivers leave behind, are not looked at.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath

from vlyard.formats.picture import SUFFIXES

_DESCRIBING = (".yaml", ".yml", ".data", ".labels", ".names")
_IN_MASSES = frozenset({".txt", ".jpg", "jpeg", ".png"})  # what nearly all names end like
_NAMES = ("classes.txt",)  # beside thousands of labels that end like it
_LEFTOVERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
# Pictures and their labels are listed several times while a set is recognised and read, and what a folder holds stays
# the same meanwhile: so many names are remembered, or those of two folders.
_REMEMBERED = 50_000


def is_picture(path: Path | str) -> bool:
    """Whether the name says so."""
    name = str(path)
    return name[name.rfind(".") :].lower() in SUFFIXES  # names come by the million, and are no Paths


def storable(text: str) -> str:
    """The text without what no JSON can hold: a file's name may have bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class _Listing:
    """The sorted names of a folder's files and of its sub-folders, which nobody may change."""

    files: list[str]
    inner: list[str]

    @cached_property
    def pictures(self) -> list[str]:
        # As `is_picture` says, in half the time.
        return [name for name in self.files if name[name.rfind(".") :].lower() in SUFFIXES]


@dataclass(frozen=True)
class Tree:
    """The folder `root`, which is absolute and resolved, and everything below it."""

    root: Path

    def name(self, path: Path | str) -> str:
        """The path as messages and outputs say it: from the root, with forward slashes."""
        if isinstance(path, str):
            return path[len(str(self.root).rstrip("/")) + 1 :]
        return path.relative_to(self.root).as_posix()

    def folders(self, folder: Path | None = None, without: Collection[str] = ()) -> Iterator[tuple[str, list[str]]]:
        """The folder (the root if not given) and all below it: absolute paths, with the sorted names of their files.

        Folders in `without`, absolute paths, are left out with all below them.
        """
        yield from self._below(str(folder or self.root), frozenset(), without)

    def names(self, folder: str) -> Sequence[str]:
        """The sorted names of a folder's own files, by its absolute path; none where there is no such folder."""
        return self._listed(folder).files if os.path.isdir(folder) else ()  # noqa: PTH112

    def picture_names(self, folder: str) -> Sequence[str]:
        """Those of `names` that are a picture's."""
        return self._listed(folder).pictures if os.path.isdir(folder) else ()  # noqa: PTH112

    def _below(
        self, folder: str, above: frozenset[tuple[int, int]], without: Collection[str]
    ) -> Iterator[tuple[str, list[str]]]:
        if folder in without:
            return
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in above:
            return  # a link to one of its own parents
        listing = self._listed(folder)
        yield folder, listing.files
        inner = listing.inner
        del listing
        for name in inner:
            yield from self._below(f"{folder}/{name}", above | {(here.st_dev, here.st_ino)}, without)

    def _listed(self, folder: str) -> _Listing:
        known = self._lately.get(folder)
        if known is None:
            files: list[str] = []
            inner: list[str] = []
            with os.scandir(folder) as entries:  # names alone: a Path for each of a million files is half a gigabyte
                for entry in entries:
                    if (name := entry.name)[0] != ".":
                        (inner if entry.is_dir() else files).append(name)
            inner = [name for name in inner if name not in _LEFTOVERS]
            files.sort()
            inner.sort()
            known = self._lately[folder] = _Listing(files, inner)
            while len(self._lately) > 2 and sum(len(each.files) for each in self._lately.values()) > _REMEMBERED:
                del self._lately[next(iter(self._lately))]
        return known

    def forget(self) -> None:
        """Let go of the names that are remembered."""
        self._lately.clear()

    @cached_property
    def _lately(self) -> dict[str, _Listing]:
        return {}

    def __getstate__(self) -> dict[str, Path]:
        """What other processes are told: they find the rest themselves."""
        return {"root": self.root}

    def walk(self, folder: Path | None = None) -> Iterator[Path]:
        """All files below a folder (the root if not given), sorted, the files of a folder before its sub-folders'."""
        for place, names in self.folders(folder):
            yield from (Path(place, name) for name in names)

    def describing(self) -> Sequence[Path]:
        """The files that may describe a data set: .yaml, .data and the like, and `classes.txt`; in `walk`'s order."""
        return self._survey[1]

    def count_pictures(self) -> int:
        """How many files have the name of a picture."""
        return self._survey[0]

    @cached_property
    def _survey(self) -> tuple[int, Sequence[Path]]:
        """How many pictures there are, and the files that may describe a set: found in one walk."""
        count, describing = 0, []
        for place, names in self.folders():
            count += len(self.picture_names(place))
            unlike = [name for name in names if name[-4:] not in _IN_MASSES]
            found = [name for name in unlike if name.lower().endswith(_DESCRIBING)]
            found += [name for name in _NAMES if name in names]
            describing += [Path(place, name) for name in sorted(found)]
        return count, describing

    def pictures(self, folder: Path | None = None) -> Iterator[Path]:
        """All files below a folder whose name is a picture's."""
        return filter(is_picture, self.walk(folder))

    def find(self, written: str, bases: Sequence[Path]) -> Path | None:
        """The file or folder that a written path means, as seen from the first base where it exists.

        Where it exists nowhere as written, leading parts are left off, since lists travel badly: `../train/images`
        is found as `train/images`, `/home/me/data/img/1.jpg` as `img/1.jpg`.
        """
        parts = _parts(written)
        shorter = ("/".join(parts[skipped:]) for skipped in range(len(parts)))
        candidates = (self._inside(base, text) for text in chain([written], shorter) for base in bases)
        return next((path for path in candidates if path is not None), None)

    def pictures_named(self, written: str) -> Sequence[Path]:
        """Every picture of the set that has the file name of the written path, wherever it lies."""
        return self._by_name.get(_parts(written)[-1], ()) if _parts(written) else ()

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        index: dict[str, list[Path]] = {}
        for picture in self.pictures():
            index.setdefault(picture.name, []).append(picture)
        return index

    def _inside(self, base: Path, written: str) -> Path | None:
        """What the text means from there, if it exists and lies in this folder."""
        path = Path(os.path.normpath(base / written.replace("\\", "/")))
        try:
            return path if path.is_relative_to(self.root) and path.exists() else None
        except (OSError, ValueError):  # no name that the system allows
            return None


def _parts(written: str) -> list[str]:
    path = PurePosixPath(written.replace("\\", "/").replace("\0", ""))
    return [part for part in path.parts if part not in {"/", "//", ".", ".."} and not part.endswith(":")]
