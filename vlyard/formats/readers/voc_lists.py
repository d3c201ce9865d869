"""The lists of a Pascal VOC set, ImageSets/Main/train.txt and so on: which picture belongs to which split."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vlyard.formats import faults
from vlyard.formats.readers.filling import Filling
from vlyard.formats.readers.listing import Entry
from vlyard.formats.reading import Place, Stray
from vlyard.formats.tree import Tree, storable

_FOLDER = ("ImageSets", "Main")
_LISTS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_WHOLE = ("trainval", "default")  # read as train where no other list is there


@dataclass(frozen=True)
class _Line:
    split: str
    place: Place


@dataclass
class Lists:
    """What the lists of a set say; empty where it has none."""

    lines: dict[str, _Line] = field(default_factory=dict)  # by the picture's path without its suffix, as written
    evidence: list[str] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    _met: set[str] = field(default_factory=set)  # lines to which there is a label
    _splits: set[str] = field(default_factory=set)  # that have at least one label

    @classmethod
    def found(cls, tree: Tree, label: Path) -> "Lists":
        """Those of the set that a label file is in."""
        lists = cls()
        for folder, names in tree.folders():
            if Path(folder).parts[-2:] != _FOLDER or not label.is_relative_to(Path(folder).parents[1]):
                continue
            stems = {name.removesuffix(".txt") for name in names if name.endswith(".txt")}
            chosen = {stem: split for stem, split in _LISTS.items() if stem in stems}
            chosen = chosen or {stem: "train" for stem in _WHOLE if stem in stems}
            for stem, split in chosen.items():
                lists._read(tree, Path(folder, f"{stem}.txt"), split)
            if chosen:
                break
        return lists

    def add(self, entry: Entry, filling: Filling) -> None:
        """Put a label's entry into the listing, for the split that a list says; one that no list names is stray."""
        if not self.lines:
            filling.add(entry)
            return
        key = next((key for key in _keys(entry.place.file) if key in self.lines), None)
        if key is None:
            place = Place(storable(entry.place.file))
            filling.stray(Stray(place, faults.UNLISTED.found(), annotations=entry.annotations))
            return
        self._met.add(key)
        self._splits.add(self.lines[key].split)
        filling.add(entry.of_split(self.lines[key].split))

    def add_others(self, filling: Filling) -> None:
        """Put the pictures down that have no label: of a split without any label nobody knows what they show."""
        for stray in self.strays:
            filling.stray(stray)
        for key, line in self.lines.items():
            if key in self._met:
                continue
            if line.split in self._splits:
                filling.add(Entry(line.place, "", key.rpartition("/")[2], line.split))
            else:
                filling.stray(Stray(line.place, faults.UNLABELLED_SPLIT.found(split=line.split), picture=True))

    def _read(self, tree: Tree, path: Path, split: str) -> None:
        name, count = tree.name(path), 0
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                written = line.strip()
                stem, _, column = written.rpartition(" ")  # ImageNet's lists number their lines in a second column
                key = stem.rstrip() if stem and column.lstrip("+-").isdecimal() else written
                if not key:
                    continue
                count += 1
                first = self.lines.setdefault(key, _Line(split, Place(name, number)))
                if first.place != Place(name, number):
                    finding = faults.LISTED_TWICE.found(split=first.split)
                    self.strays.append(Stray(Place(name, number), finding))
        self.evidence.append(f"{name} lists {count} pictures, for {split}")


def _keys(label: str) -> Iterator[str]:
    """What a list may call the picture of a label: its path below any folder, without a suffix."""
    parts = PurePosixPath(label).with_suffix("").parts
    yield from ("/".join(parts[place:]) for place in reversed(range(len(parts))))
