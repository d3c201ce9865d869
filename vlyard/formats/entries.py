"""Every picture of a recognised data set with its label file, one at a time, and everything that has no partner.

It opens lists, and neither pictures nor labels.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vlyard.formats import faults
from vlyard.formats.faults import Finding
from vlyard.formats.layouts import Dataset, Source, Split
from vlyard.formats.tree import Tree, is_picture
from vlyard.formats.yolo import looks_like_labels


@dataclass(frozen=True)
class Entry:
    """A picture and its label file; None where it has none, which means that it shows no object."""

    picture: Path
    label: Path | None
    split: str


@dataclass(frozen=True)
class Stray:
    """A part of the set that makes no sample, and why."""

    where: str  # a file, as seen from the root
    finding: Finding
    line: int | None = None
    picture: bool = False  # it would have been a picture
    label: Path | None = None  # a label file that nothing will read


@dataclass
class _Seen:
    """What reading leaves behind: how pictures and labels pair up, for finding what has no partner."""

    split_of: dict[str, str] = field(default_factory=dict)
    homes: set[tuple[Path, Path]] = field(default_factory=set)  # (folder of pictures, folder of their labels)


def entries(dataset: Dataset) -> Iterator[Entry | Stray]:
    """Every entry of every split in the set's own order, then all strays. Sorted, so that two runs agree."""
    seen = _Seen()
    for split in dataset.splits:
        for source in split.sources:
            yield from _of_source(dataset, split, source, seen)
    yield from _orphans(dataset, seen)
    for picture in dataset.tree.pictures():
        if dataset.tree.name(picture) not in seen.split_of:
            yield Stray(dataset.tree.name(picture), faults.UNLISTED.found())


def _of_source(dataset: Dataset, split: Split, source: Source, seen: _Seen) -> Iterator[Entry | Stray]:
    if source.path is None:
        finding = faults.SPLIT_MISSING.found(split=split.name, entry=source.written)
        yield Stray(dataset.described_by, finding)
    elif source.path.is_dir():
        seen.homes.update(_label_folders(dataset.tree, source.path))
        for picture in dataset.tree.pictures(source.path):
            yield _paired(dataset.tree, picture, None, split, seen)
    else:
        yield from _of_list(dataset, split, source.path, seen)


def _of_list(dataset: Dataset, split: Split, listing: Path, seen: _Seen) -> Iterator[Entry | Stray]:
    """The pictures that a text file names, one a line: `./` is the list's folder, else the layout's bases are tried."""
    tree = dataset.tree
    bases = (*dataset.bases, listing.parent)
    with listing.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            written = line.strip()
            if not written:
                continue
            picture = tree.find(written, (listing.parent, *bases) if written.startswith("./") else bases)
            label = None
            if picture is None:  # it may have been moved away from its label, which may still be where the list says
                named = tree.pictures_named(written)
                label = tree.find(f"{_stem(written)}.txt", bases)
                if len(named) != 1:
                    if label is not None:
                        seen.homes.add((label.parent, label.parent))
                    fault = faults.PICTURE_AMBIGUOUS if named else faults.PICTURE_MISSING
                    finding = fault.found(name=written, count=len(named))
                    yield Stray(tree.name(listing), finding, number, picture=True)
                    continue
                picture = named[0]
            yield _paired(tree, picture, label, split, seen)


def _paired(tree: Tree, picture: Path, label: Path | None, split: Split, seen: _Seen) -> Entry | Stray:
    name = tree.name(picture)
    if name in seen.split_of:
        return Stray(name, faults.LISTED_TWICE.found(split=seen.split_of[name]))
    seen.split_of[name] = split.name
    candidates = [label] if label else [folder / f"{picture.stem}.txt" for folder in _homes_of(tree, picture.parent)]
    label = next((path for path in candidates if path.is_file()), None)
    if label is not None:
        seen.homes.add((picture.parent, label.parent))
    return Entry(picture, label, split.name)


def _stem(written: str) -> str:
    stem, dot, suffix = written.rpartition(".")
    return stem if dot and "/" not in suffix else written


def _homes_of(tree: Tree, folder: Path) -> Iterator[Path]:
    """Where the labels of a folder's pictures may be: under labels/ for images/ (the last one), then beside them."""
    parts = folder.relative_to(tree.root).parts
    if "images" in parts:
        place = len(parts) - 1 - parts[::-1].index("images")
        yield tree.root.joinpath(*parts[:place], "labels", *parts[place + 1 :])
    yield folder


def _label_folders(tree: Tree, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Pairs (folder of pictures, folder of labels) below a split's folder, also where only the label folder exists."""
    for home in _homes_of(tree, folder):
        if home.is_dir():
            for labels in {path.parent for path in tree.walk(home) if path.suffix == ".txt"}:
                yield folder / labels.relative_to(home), labels


def _orphans(dataset: Dataset, seen: _Seen) -> Iterator[Stray]:
    """Label files without a picture, in every folder where labels were found or looked for."""
    tree = dataset.tree
    lists = {source.path for split in dataset.splits for source in split.sources}
    homes_of: dict[Path, list[Path]] = {}
    for pictures, labels in seen.homes:
        homes_of.setdefault(labels, []).append(pictures)
    for labels in sorted(homes_of):
        beside = (name for folder in homes_of[labels] for name in _names(folder) if is_picture(Path(name)))
        stems = {_stem(name) for name in beside}
        for name in sorted(name for name in _names(labels) if name.endswith(".txt") and _stem(name) not in stems):
            label = labels / name
            if label in lists or label == dataset.names_file:
                continue
            if labels.name == "labels" or looks_like_labels(label):
                yield Stray(tree.name(label), faults.ORPHAN_LABEL.found(), label=label)
            else:
                yield Stray(tree.name(label), faults.NOT_LABELS.found())


def _names(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        with os.scandir(folder) as files:  # names alone: a Path for each of a million files is half a gigabyte
            yield from (file.name for file in files if not file.name.startswith(".") and file.is_file())
