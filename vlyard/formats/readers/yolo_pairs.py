"""Every picture of a recognised YOLO set with its label file, one at a time, and everything that has no partner.

It opens lists, and neither pictures nor labels. It works on names, folder by folder, so that a set of a million
pictures costs no more memory than its largest folder.
"""

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from vlyard.formats import faults
from vlyard.formats.readers.yolo_layouts import NAMES_FILES, SAME_FOLDER, Dataset, Source, Split
from vlyard.formats.readers.yolo_rows import count_rows, looks_like_rows
from vlyard.formats.reading import Place, Run, Stray, Unit
from vlyard.formats.tree import Tree, is_picture

# What people call a folder of pictures, and what they call the one of its labels.
_PICTURES = ("images", "image", "imgs", "img", "JPEGImages", "pictures", "photos")
_LATELY = 64  # folders whose labels' names are remembered
_LABELS = ("labels", "label", "txt", "txts", "annotations", "Annotations", "obj_train_data", "labels_yolo", "yolo")


@dataclass
class _Seen:
    """What reading leaves behind, for finding what has no partner."""

    folders: list[tuple[str, str]] = field(default_factory=list)  # read as a whole: with a slash, and the split
    names: dict[str, str] = field(default_factory=dict)  # read by a list -> split
    homes: dict[str, set[str]] = field(default_factory=dict)  # folder of labels -> folders of their pictures
    whole: dict[str, str] = field(default_factory=dict)  # folder of labels -> the folder whose pictures have them all
    moved: set[str] = field(default_factory=set)  # labels of pictures that were moved away from them

    def split_of(self, path: str) -> str | None:
        """For which split the picture was read, if it was."""
        within = (split for folder, split in self.folders if path.startswith(folder))
        return self.names.get(path) or next(within, None)


def units(dataset: Dataset) -> Iterator[Unit | Stray]:
    """Every picture of every split in the set's own order, then all strays. Sorted, so that two runs agree."""
    for item in runs(dataset):
        if isinstance(item, Run):
            yield from item.units()
        else:
            yield item


def runs(dataset: Dataset) -> Iterator[Unit | Run | Stray]:
    """The same, with many pictures at once wherever all of a folder have their labels in one place."""
    pairing = _Pairing(dataset, _Seen(), Homes(dataset))
    for split in dataset.splits:
        for source in split.sources:
            yield from pairing.of_source(split, source)
    pairing.homes.forget()
    pairing.look_for_more_labels()
    elsewhere: list[str] = []
    yield from _unlisted(pairing, elsewhere)
    yield from _orphans(pairing)
    yield from _far_off(pairing, elsewhere)
    dataset.tree.forget()  # what comes next needs the room for pictures


@dataclass(frozen=True)
class _Pairing:
    dataset: Dataset
    seen: _Seen
    homes: "Homes"

    def of_source(self, split: Split, source: Source) -> Iterator[Unit | Run | Stray]:
        if source.path is None:
            finding = faults.SPLIT_MISSING.found(split=split.name, entry=source.written)
            yield Stray(Place(self.dataset.described_by), finding)
        elif not source.path.is_dir():
            yield from self._of_list(split, source.path)
        else:
            for folder, _ in self.dataset.tree.folders(source.path):
                yield from self._of_folder(split, folder, self.dataset.tree.picture_names(folder))
            self.seen.folders.append((f"{source.path}/", split.name))

    def read_in(self, labels: str) -> frozenset[str]:
        """The label files of that folder which are the first ones of their pictures."""
        pictures = (
            (folder, name) for folder in self.seen.homes[labels] for name in self.dataset.tree.picture_names(folder)
        )
        found = (self.homes.label(folder, name) or self._far(name) for folder, name in pictures)
        return frozenset(label for label in found if label is not None) | self.seen.moved

    def _far(self, name: str) -> str | None:
        return next(iter(self.homes.far(name)), None)

    def look_for_more_labels(self) -> None:
        """Note the folders of labels whose pictures would lie in a folder that is not there, or has none."""
        for folder, _ in self.seen.folders:
            for labels, pictures in _label_folders(self.dataset, folder.rstrip("/")):
                self.seen.homes.setdefault(labels, set()).add(pictures)

    def _of_folder(self, split: Split, folder: str, names: Sequence[str]) -> Iterator[Unit | Run | Stray]:
        near = self.homes.near(folder)
        alone = names and near and not self.seen.folders and not self.seen.names
        if alone and (found := near[0].found(names)):
            self.seen.homes.setdefault(near[0].folder, set()).add(folder)
            if found == "all":
                self.seen.whole[near[0].folder] = folder
            yield Run(names, folder, f"{folder}/"[len(f"{self.dataset.tree.root}/") :], near[0].folder, split.name)
            return
        near = near if any(home.label(name) for home in near for name in names) else ()
        before, split_name = len(f"{self.dataset.tree.root}/"), split.name
        read = bool(self.seen.folders or self.seen.names)
        used: set[str] = set()  # folders of labels
        for name in names:
            path, place = f"{folder}/{name}", ""
            if read and (earlier := self.seen.split_of(path)) is not None:
                yield Stray(Place(path[before:]), faults.LISTED_TWICE.found(split=earlier))
                continue
            label = None
            for home in near:
                label = home.label(name)
                if label is not None:
                    place = home.folder
                    break
            if label is None and not near:
                far = self.homes.far(name)
                if len(far) > 1:
                    finding = faults.LABEL_AMBIGUOUS.found(count=len(far), name=self.dataset.tree.name(far[0]))
                    yield Stray(Place(path[before:]), finding, picture=True)
                    continue
                label, place = (far[0], far[0].rpartition("/")[0]) if far else (None, "")
            if label is not None and place not in used:
                used.add(place)
                self.seen.homes.setdefault(place, set()).add(folder)
            yield Unit(path[before:], path, split_name, label)

    def _of_list(self, split: Split, listing: Path) -> Iterator[Unit | Run | Stray]:
        """The pictures that a text file names, one a line."""
        with listing.open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield from self._listed(split, listing, number, line.strip())

    def _listed(self, split: Split, listing: Path, number: int, written: str) -> Iterator[Unit | Run | Stray]:
        """One line of a list: `./` is the list's folder, else the layout's bases are tried."""
        tree, seen = self.dataset.tree, self.seen
        bases = (*self.dataset.bases, listing.parent)
        picture = tree.find(written, (listing.parent, *bases) if written.startswith("./") else bases)
        label = None
        if picture is not None and not is_picture(picture) and ("." not in picture.name or picture.is_dir()):
            finding = faults.NOT_A_PICTURE.found(name=written)
            yield Stray(Place(tree.name(listing), number), finding, picture=True)
            return
        if picture is None:  # it may have been moved away from its label, which may still be where the list says
            named = tree.pictures_named(written)
            label = tree.find(f"{_stem(written)}.txt", bases)
            if len(named) != 1:
                if label is not None:
                    seen.homes.setdefault(str(label.parent), set()).add(str(label.parent))
                fault = faults.PICTURE_AMBIGUOUS if named else faults.PICTURE_MISSING
                finding = fault.found(name=written, count=len(named))
                yield Stray(Place(tree.name(listing), number), finding, picture=True)
                return
            picture = named[0]
        if label is None:
            yield from self._of_folder(split, str(picture.parent), [picture.name])
        elif (earlier := seen.split_of(str(picture))) is not None:
            yield Stray(Place(tree.name(picture)), faults.LISTED_TWICE.found(split=earlier))
        else:
            seen.homes.setdefault(str(label.parent), set()).add(str(picture.parent))
            seen.moved.add(str(label))
            yield Unit(tree.name(picture), str(picture), split.name, str(label))
        seen.names.setdefault(str(picture), split.name)


# --- where labels are -----------------------------------------------------------------------------------------


@dataclass
class _Home:
    """A folder with label files, which is looked into when the first one is asked for."""

    folder: str
    tree: Tree

    @cached_property
    def _stems(self) -> tuple[set[str], dict[str, str]]:
        """Of `a.txt`, and of those that are written otherwise: `A.TXT`, with their names."""
        names = self.tree.names(self.folder)
        stems = {name[:-4] for name in names if name.endswith(".txt")}
        others = (name for name in names if not name.endswith(".txt")) if len(stems) < len(names) else ()
        return stems, {name[:-4]: name for name in others if name[-4:].lower() == ".txt"}

    def found(self, pictures: Sequence[str]) -> Literal["", "each", "all"]:
        """Whether each of these has its label file here, under exactly its name, and whether these files are all."""
        stems, odd = self._stems
        wanted = {name[: name.rindex(".")] for name in pictures}
        if wanted == stems and not odd:
            return "all"
        return "each" if wanted <= stems else ""

    def label(self, picture: str) -> str | None:
        """The label file of a picture of that name: `a.txt` for `a.jpg`, or what people also write."""
        stems, odd = self._stems
        stem = picture[: picture.rindex(".")]
        if stem in stems:
            return f"{self.folder}/{stem}.txt"
        for other in (stem, picture, *_spellings(stem)):
            if other in stems:
                return f"{self.folder}/{other}.txt"
            if other in odd:
                return f"{self.folder}/{odd[other]}"
        return None


@dataclass
class Homes:
    """Where the labels of a folder's pictures are."""

    dataset: Dataset
    _lately: dict[str, tuple[_Home, ...]] = field(default_factory=dict)

    def near(self, folder: str) -> tuple[_Home, ...]:
        """The folders where custom puts them, as far as these exist: in the order to try."""
        if folder not in self._lately:
            if len(self._lately) >= _LATELY:
                self._lately.clear()
            tree, places = self.dataset.tree, dict.fromkeys(_customary(self.dataset, folder))
            self._lately[folder] = tuple(_Home(place, tree) for place in places if os.path.isdir(place))  # noqa: PTH112
        return self._lately[folder]

    def label(self, folder: str, picture: str) -> str | None:
        """The label file of a picture there, where it lies as custom has it."""
        found = (home.label(picture) for home in self.near(folder))
        return next((label for label in found if label is not None), None)

    def forget(self) -> None:
        """Let go of the names that are remembered: what comes next needs the room for others."""
        self._lately.clear()

    def far(self, picture: str) -> tuple[str, ...]:
        """Label files anywhere that have the picture's stem and no picture near, where nothing describes the set."""
        return self._by_stem.get(picture[: picture.rindex(".")], ()) if self.dataset.layout == SAME_FOLDER else ()

    @cached_property
    def _by_stem(self) -> Mapping[str, tuple[str, ...]]:
        # A label that has its own picture near is no stranger's: 0001.txt of train is not the label of test's 0001.jpg.
        taken: set[str] = set()
        for folder, _ in self.dataset.tree.folders():
            pictures = self.dataset.tree.picture_names(folder)
            taken.update(home.folder for home in self.near(folder) if any(map(home.label, pictures)))
        index: dict[str, tuple[str, ...]] = {}
        for folder, names in self.dataset.tree.folders(self.dataset.labels):
            for name in names if folder not in taken else ():
                if name[-4:].lower() == ".txt" and looks_like_rows(f"{folder}/{name}"):
                    index[name[:-4]] = (*index.get(name[:-4], ()), f"{folder}/{name}")
        return index


def _customary(dataset: Dataset, folder: str) -> Iterator[str]:
    """Under labels/ for images/ (the last one), beside the pictures, then under what else people call them."""
    tree = dataset.tree
    parts = tree.name(folder).split("/")
    if dataset.labels is not None:  # whoever converts said where: the same path below it, then the folder itself
        yield from (str(dataset.labels.joinpath(*parts[start:])) for start in range(len(parts) + 1))
        return
    root = str(tree.root)
    for place in reversed(range(len(parts))):
        if parts[place] in _PICTURES:
            yield from ("/".join([root, *parts[:place], name, *parts[place + 1 :]]) for name in _LABELS)
            if parts[place] == "images":
                break
    yield folder
    for place in reversed(range(len(parts))):  # train_images/ and train_labels/
        for mark, other in (("images", "labels"), ("image", "label"), ("img", "label")):
            if mark in parts[place]:
                renamed = parts[place].replace(mark, other)
                yield "/".join([root, *parts[:place], renamed, *parts[place + 1 :]])


def _label_folders(dataset: Dataset, folder: str) -> Iterator[tuple[str, str]]:
    """Pairs (folder of labels, folder of pictures) below a split's folder, also where only the label folder exists."""
    for home in dict.fromkeys(_customary(dataset, folder)):
        if os.path.isdir(home):  # noqa: PTH112
            for labels, names in dataset.tree.folders(Path(home)):
                if any(name.endswith(".txt") for name in names):
                    yield labels, f"{folder}{labels[len(home) :]}"


# --- what has no partner --------------------------------------------------------------------------------------


def _orphans(pairing: _Pairing) -> Iterator[Stray]:
    """Label files that no picture was read with, in every folder where labels were found or looked for."""
    dataset, seen = pairing.dataset, pairing.seen
    lists = {str(source.path) for split in dataset.splits for source in split.sources}
    lists.add(str(dataset.names_file))
    for labels in sorted(seen.homes):
        if seen.homes[labels] == {seen.whole.get(labels)}:
            continue
        pictures = (name for folder in seen.homes[labels] for name in dataset.tree.picture_names(folder))
        beside = {name[: name.rindex(".")] for name in pictures}
        beside.update({other for stem in beside if not stem.isascii() for other in _spellings(stem)})
        shared = any(near[0].folder != labels for folder in seen.homes[labels] if (near := pairing.homes.near(folder)))
        alone: list[str] = []
        doubtful: list[str] = []  # a picture may have a label file that goes before it
        for name in dataset.tree.names(labels):
            if not shared and name.endswith(".txt") and name[:-4] in beside:  # as nearly always
                continue
            if name[-4:].lower() == ".txt":
                if not _beside(name[:-4], beside):
                    alone.append(name)
                elif shared or name[:-4] not in beside or not name.endswith(".txt"):
                    doubtful.append(name)
        read = pairing.read_in(labels) if doubtful else frozenset()
        second = {name for name in doubtful if f"{labels}/{name}" not in read}
        for name in sorted({*alone, *second}):
            label = f"{labels}/{name}"
            if label not in lists:
                yield _unread(dataset, label, faults.SECOND_LABEL if name in second else faults.ORPHAN_LABEL)
        pairing.homes.forget()


def _unread(dataset: Dataset, label: str, fault: faults.Fault) -> Stray:
    """What a text file is that no picture was read with."""
    folder, _, name = label.rpartition("/")
    surely = folder.endswith("/labels") and name not in NAMES_FILES
    if surely or looks_like_rows(label):
        return Stray(Place(dataset.tree.name(label)), fault.found(), annotations=count_rows(label))
    return Stray(Place(dataset.tree.name(label)), faults.NOT_LABELS.found())


def _unlisted(pairing: _Pairing, elsewhere: list[str]) -> Iterator[Stray]:
    """Pictures that were not read, with their labels; notes the folders with text files that nobody looked into."""
    dataset, seen = pairing.dataset, pairing.seen
    whole = frozenset(folder.rstrip("/") for folder, _ in seen.folders)
    for folder, names in dataset.tree.folders(without=whole):
        if folder not in seen.homes and any(name.endswith(".txt") for name in names):
            elsewhere.append(folder)
        for name in dataset.tree.picture_names(folder):
            if seen.split_of(f"{folder}/{name}") is None:
                yield Stray(Place(dataset.tree.name(f"{folder}/{name}")), faults.UNLISTED.found())
                label = pairing.homes.label(folder, name)
                if label is not None:
                    seen.homes.setdefault(label.rpartition("/")[0], set()).add(folder)
                    yield _unread(dataset, label, faults.LABEL_UNLISTED)


def _far_off(pairing: _Pairing, folders: list[str]) -> Iterator[Stray]:
    """Labels in folders where no picture's are looked for; what a model found may lie there, too."""
    dataset = pairing.dataset
    lists = {str(source.path) for split in dataset.splits for source in split.sources}
    for folder in folders if dataset.labels is None else ():
        for name in dataset.tree.names(folder) if folder not in pairing.seen.homes else ():
            label = f"{folder}/{name}"
            if name.endswith(".txt") and label not in lists and looks_like_rows(label) and (count := count_rows(label)):
                if not {"labels", "label"}.isdisjoint(dataset.tree.name(folder).split("/")):
                    yield _unread(dataset, label, faults.ORPHAN_LABEL)
                else:
                    yield Stray(Place(dataset.tree.name(label)), faults.ROWS_ELSEWHERE.found(count=count))


def _stem(written: str) -> str:
    stem, dot, suffix = written.rpartition(".")
    return stem if dot and "/" not in suffix else written


def _beside(stem: str, pictures: set[str]) -> bool:
    """Whether a picture belongs to a label file of that stem: `a`, or what people also write, `a.jpg`."""
    return stem in pictures or (is_picture(stem) and _stem(stem) in pictures)


def _spellings(stem: str) -> tuple[str, ...]:
    """The other ways to write the same letters: macOS takes an ü apart where others do not."""
    if stem.isascii():
        return ()
    return tuple({unicodedata.normalize(form, stem) for form in ("NFC", "NFD")} - {stem})
