"""Sets that a chat model is trained on: pictures, questions, and answers that name objects with boxes or points.

Lists in JSON or a sample a line, streamed into a listing on disk. Samples of one picture, such as a question for each
class, are joined: the same object in several of them is one.
"""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats import faults
from vlyard.formats.classes import Classes
from vlyard.formats.readers.filling import Filling
from vlyard.formats.readers.json_kinds import SUFFIXES, BrokenJson, Kind, entries, kind_of, opened
from vlyard.formats.readers.label_files import invalid, label_files
from vlyard.formats.readers.listing import Entry, Listing
from vlyard.formats.readers.pixels import raster
from vlyard.formats.readers.samples import Named, read_sample
from vlyard.formats.readers.splits import ORDER, split_of_file
from vlyard.formats.reading import Draft, Place, Reading, Refused, Stray, Unit, Wanted
from vlyard.formats.record import Keypoint, Look
from vlyard.formats.tree import Tree, storable

_INFO = "dataset_info.json"
_LONGEST = 2**26  # bytes of a sample that stands in one line
_CORNERS = "pixels-xyxy"  # of `coordinates`
_SAID_AGAIN = "said_again"  # how the report calls objects that several samples of a picture name


@dataclass(frozen=True)
class AnswersReader:
    """A set of samples as it was recognised."""

    listing: Listing
    ids: Mapping[str, int]
    classes: Classes
    evidence: tuple[str, ...]
    layout: str  # sharegpt, qwen, swift or trl
    described_by: str
    splits: tuple[str, ...]
    format: str = "answers"

    def units(self) -> Iterator[Unit | Stray]:
        """As `Reader.units`."""
        return self.listing.units()

    def read(self, unit: Unit, look: Look, reading: Reading) -> None:
        """As `Reader.read`."""
        earlier: set[object] = set()
        for entry in self.listing.entries(unit.key or 0):
            named: tuple[Named, ...] = pickle.loads(entry.said)  # noqa: S301 - our own, from our own scratch folder
            said = {_same(each) for each in named}
            for number, each in enumerate(named):
                if _same(each) in earlier:
                    reading.kept += 1
                    reading.spelling[_SAID_AGAIN] = reading.spelling.get(_SAID_AGAIN, 0) + 1
                else:
                    within = ".".join(filter(None, [entry.place.entry, f"objects[{number}]"]))
                    at = Place(entry.place.file, entry.place.line, within)
                    self._judge(at, each, look, reading)
            earlier |= said

    def _judge(self, place: Place, named: Named, look: Look, reading: Reading) -> None:
        label = storable(named.label.strip())
        refused_before = named.refused or (None if label else faults.NO_LABEL.found())
        if refused_before is not None:
            reading.refuse(place, *named.findings, refused_before)
            return
        try:
            corners = raster(None, look).box(named.corners) if named.in_pixels else named.corners
        except Refused as refused:
            reading.refuse(place, *named.findings, refused.finding)
            return
        keypoints = (Keypoint(*corners[:2], storable(named.role)),) if named.is_point else ()
        drafted = Draft(
            self.ids[label],
            label,
            corners,
            named.findings,
            keypoints=keypoints,
            attributes=named.attributes or {},
            is_point=named.is_point,
        )
        reading.accept(place, drafted)


def _same(named: Named) -> object:
    return named.label, named.corners, named.is_point, named.refused


# --- recognising, and reading the files once ------------------------------------------------------------------


def recognise(tree: Tree, wanted: Wanted) -> AnswersReader | None:
    """The set, where it has samples with objects. Raises `InvalidInput` where their files are broken."""
    files = [path for path in label_files(tree, wanted, SUFFIXES) if kind_of(path) is Kind.SAMPLES]
    if not files:
        return None
    files, splits, described_by, remarks = _described(tree, files)
    met = _Met(in_pixels=wanted.coordinates == _CORNERS)
    with Filling(tree, wanted, "answers") as filling:
        for path in files:
            met.read(tree, path, splits.get(path) or split_of_file(tree.name(path)) or "train", filling)
        if not met.samples and wanted.format == "auto" and not wanted.labels:
            return None  # a chat about other things: perhaps the labels are in another format
        if wanted.coordinates not in {"relative", _CORNERS}:
            what = "the source is read as answers, whose boxes are two corners"
            raise InvalidInput("The options do not fit", [Complaint("coordinates", what, f"choose {_CORNERS}")])
        listing = filling.listing(joined=True, unlabelled=False)
    classes = Classes.named(met.labels)
    return AnswersReader(
        listing,
        {name: class_id for class_id, name in (classes.names or {}).items()},
        classes,
        tuple(map(storable, [*remarks, *met.evidence])),
        met.layout,
        storable(described_by),
        listing.splits(),
    )


def _described(tree: Tree, files: list[Path]) -> tuple[list[Path], dict[Path, str], str, list[str]]:
    """The files that a dataset_info.json names, if there is one: these, their splits, where that stands, remarks."""
    for folder in dict.fromkeys(place for path in files for place in (path.parent, path.parent.parent)):
        info = folder / _INFO
        if not info.is_file() or not info.is_relative_to(tree.root):
            continue
        named = {path: split for path, split in _named_by(tree, info) if path in files}
        if named:
            left = [tree.name(path) for path in files if path not in named]
            remarks = [f"{tree.name(info)} names {len(named)} data sets that are here"]
            remarks += [f"it does not name {', '.join(left[:5])}, which is left out"] if left else []
            return list(named), named, tree.name(info), remarks
    return files, {}, tree.name(files[0]), []


def _named_by(tree: Tree, info: Path) -> Iterator[tuple[Path, str]]:
    try:
        said = orjson.loads(info.read_bytes())
    except ValueError as error:
        raise invalid(tree.name(info), f"this is not JSON: {error}", "correct the file") from None
    for name, entry in said.items() if isinstance(said, dict) else ():
        written = entry.get("file_name") if isinstance(entry, dict) else None
        path = tree.find(written, [info.parent]) if isinstance(written, str) else None
        if path is not None and path.is_file():
            last = name.rpartition("_")[2]
            yield path, last if last in ORDER else split_of_file(tree.name(path)) or "train"


@dataclass
class _Met:
    """What the samples say before they are read for their pictures."""

    in_pixels: bool
    labels: set[str] = field(default_factory=set)
    evidence: list[str] = field(default_factory=list)
    layout: str = ""
    samples: int = 0

    def read(self, tree: Tree, path: Path, split: str, filling: Filling) -> None:
        """Put a file's samples into the listing."""
        name, count, refused = tree.name(path), 0, 0
        try:
            for place, said in _samples(name, path):
                self.layout = self.layout or _layout(said)
                count += 1
                try:
                    sample = read_sample(said, in_pixels=self.in_pixels)
                except Refused as error:
                    filling.stray(Stray(Place(storable(name), place.line, place.entry), error.finding))
                    refused += 1
                    continue
                self.labels |= {storable(each.label.strip()) for each in sample.named} - {""}
                named = pickle.dumps(sample.named)
                filling.add(Entry(place, sample.picture, "", split, annotations=len(sample.named), said=named))
        except BrokenJson as error:
            raise invalid(name, f"this is not JSON: {error}", "correct the file") from None
        self.samples += count - refused
        self.evidence.append(f"{name} holds {count} samples, for {split}")


def _samples(name: str, path: Path) -> Iterator[tuple[Place, object]]:
    with opened(path) as file:
        begins = file.read(4096).lstrip()[:1]
    if begins == b"[":
        for place, said in enumerate(entries(path, "item")):
            yield Place(name, entry=f"[{place}]"), said
        return
    with opened(path) as file:
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                continue
            try:
                yield Place(name, number), orjson.loads(line)
            except ValueError as error:
                yield Place(name, number), error


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(_LONGEST):
        yield line
        while line and not line.endswith(b"\n"):  # longer than any sample: it was refused as it is, cut off
            line = file.readline(_LONGEST)


def _layout(said: object) -> str:
    """Whose shape a sample has."""
    if not isinstance(said, dict):
        return ""
    if "objects" in said:
        return "swift"
    turns = said.get("messages")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict) and isinstance(turns[0].get("content"), list):
        return "trl"
    return "qwen" if "conversations" in said and "image" in said else "sharegpt"
