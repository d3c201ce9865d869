"""What every reader has in common: units to read, and the judging of each annotation. It knows no label format.

A reader turns one annotation into a `Draft`, or refuses it; whether the box can be is judged here, once for all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import NamedTuple, Protocol

from vlyard.formats import faults
from vlyard.formats.box import Box
from vlyard.formats.classes import Classes
from vlyard.formats.faults import Finding, Policy, Status, judge
from vlyard.formats.record import Corner, Keypoint, Look, Target, Value

TOLERANCE = 0.01  # how far a value may leave 0..1 and still be a slip: the tolerance of Ultralytics' label check
_NOISE = 1e-6  # an edge this far outside is the rounding of six written digits, not a fault
_VALUES = ("centre x", "centre y", "width", "height")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in the source."""

    file: str  # from the source's root, with forward slashes
    line: int | None = None  # from 1, in files that are read by lines
    entry: str = ""  # in files that are not: `annotations[12]`, `object[3]`

    def __str__(self) -> str:
        return ":".join(filter(None, [self.file, "" if self.line is None else str(self.line), self.entry]))


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the report: what became of one thing, and why. `annotations` is how many of them it accounts for."""

    place: Place
    status: Status
    findings: tuple[Finding, ...]
    annotations: int = 0


class Unit(NamedTuple):
    """One picture of a set, and where its reader finds what is said of it. Small, and can be pickled."""

    name: str  # the picture's path as the output keeps it: relative, unique in the set
    path: str  # the picture's file, absolute
    split: str  # train, val or test
    label: str | None = None  # the file that describes it, absolute; None: there is none
    key: int | None = None  # the reader's own number for it, where a file describes many pictures


class Run(NamedTuple):
    """Pictures of one folder that all have a label file of their own name in another one: what most sets consist of."""

    names: Sequence[str]  # of the pictures' files
    folder: str  # of the pictures, absolute
    inside: str  # the same from the set's root, with a slash behind; empty for the root
    labels: str  # the folder of the label files, absolute
    split: str

    def units(self) -> Iterator[Unit]:
        """Each picture as a unit of its own."""
        _, folder, inside, labels, split = self
        for name in self.names:
            yield Unit(inside + name, f"{folder}/{name}", split, f"{labels}/{name[: name.rindex('.')]}.txt")


@dataclass(frozen=True, slots=True)
class Stray:
    """A part of the set that makes no unit, and why."""

    place: Place
    finding: Finding
    picture: bool = False  # it would have been a picture
    annotations: int = 0  # that nothing will read


class Reader(Protocol):
    """One data set in one label format. Made once; pickled into every process that reads."""

    @property
    def format(self) -> str:
        """yolo, coco, voc, labelme or answers."""

    @property
    def layout(self) -> str:
        """The arrangement that was recognised, such as roboflow."""

    @property
    def evidence(self) -> tuple[str, ...]:
        """What was seen, in sentences."""

    @property
    def classes(self) -> Classes:
        """Every class that can be met, before anything is read."""

    @property
    def described_by(self) -> str:
        """The file that says all this, as messages name it."""

    @property
    def splits(self) -> tuple[str, ...]:
        """In the set's own order."""

    def units(self) -> Iterator[Unit | Stray]:
        """Every picture in a fixed order, then every stray. Called in one process only; holds little in memory."""

    def read(self, unit: Unit, look: Look, reading: "Reading") -> None:
        """Give every annotation of the unit to `reading`. `look` has no size where the picture was not opened."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An annotation as its reader understood it, before it is judged. Corners are relative, in any order of size."""

    class_id: int
    label: str
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2
    findings: tuple[Finding, ...] = ()
    polygon: tuple[Corner, ...] = ()
    keypoints: tuple[Keypoint, ...] = ()
    attributes: Mapping[str, Value] = field(default_factory=dict)
    is_point: bool = False  # no extent is expected
    more_outlines: tuple[tuple[Corner, ...], ...] = ()
    key: object = None  # what makes it the same as another; the class and the corners where it is None


class Refused(Exception):  # it ends the reading of one annotation, and leaves neither reader nor `Reading`
    """The annotation cannot be used."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.reason)


@dataclass
class Reading:
    """What reading one unit gives: the targets, and what became of every annotation."""

    policy: Policy
    targets: list[Target] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    kept: int = 0
    fixed: int = 0
    refused: int = 0
    keep_duplicates: bool = False
    spelling: dict[str, int] = field(default_factory=dict)  # how files were written, where that changes nothing
    _first: dict[object, Place] = field(default_factory=dict)

    @property
    def annotations(self) -> int:
        """How many were read."""
        return self.kept + self.fixed + self.refused

    def accept(self, place: Place, draft: Draft) -> None:
        """Judge one annotation, and keep its target where the policy allows."""
        try:
            draft, box = _judged(draft)
        except Refused as refused:
            self.refuse(place, *draft.findings, refused.finding)
            return
        key = draft.key or (draft.class_id, draft.label, draft.corners)
        first = self._first.get(key)
        if first is not None:
            fault = faults.DUPLICATE_KEPT if self.keep_duplicates else faults.DUPLICATE
            draft = _with(draft, fault.found(first=first.entry or f"line {first.line}"))
        status = judge(draft.findings, self.policy)
        if status is Status.REFUSED:
            self.refuse(place, *draft.findings)
            return
        self._first.setdefault(key, place)
        if draft.findings:
            self.rows.append(Row(place, status, draft.findings, 1))
        self.kept += status is Status.KEPT
        self.fixed += status is not Status.KEPT
        if first is None or self.keep_duplicates:
            parts = draft.polygon, draft.keypoints, draft.attributes, draft.more_outlines
            self.targets.append(Target(draft.class_id, draft.label, box, *parts))

    def refuse(self, place: Place, *findings: Finding, annotations: int = 1) -> None:
        """Account for an annotation, or several at once, that cannot be used."""
        self.refused += annotations
        self.rows.append(Row(place, Status.REFUSED, findings, annotations))

    def note(self, place: Place, finding: Finding) -> Status:
        """Account for a finding about a whole file; returns what becomes of the file."""
        status = judge([finding], self.policy)
        self.rows.append(Row(place, status, (finding,)))
        return status


def _judged(draft: Draft) -> tuple[Draft, Box]:
    """The draft with its findings, and its box: relative and inside the picture. Raises `Refused`."""
    x1, y1, x2, y2 = draft.corners
    if not (isfinite(x1) and isfinite(y1) and isfinite(x2) and isfinite(y2)):
        raise Refused(faults.NOT_FINITE.found(field="the box", value=draft.corners))
    if x1 > x2 or y1 > y2:
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        draft = replace(_with(draft, faults.SWAPPED_CORNERS.found()), corners=(x1, y1, x2, y2))
    width, height = x2 - x1, y2 - y1
    if (width <= 0 or height <= 0) and not draft.is_point:
        raise Refused(faults.NO_AREA.found(width=width, height=height))
    for name, value in zip(_VALUES, ((x1 + x2) / 2, (y1 + y2) / 2, width, height), strict=True):
        if not -TOLERANCE <= value <= 1 + TOLERANCE:
            raise Refused(faults.FAR_OUTSIDE.found(field=name, value=value))
    inside = Box.relative((x1, y1, x2, y2)).clamped()
    if (inside.x1 >= inside.x2 or inside.y1 >= inside.y2) and not draft.is_point:
        raise Refused(faults.NOT_IN_PICTURE.found())
    excess = max(abs(a - b) for a, b in zip((x1, y1, x2, y2), inside.corners, strict=True))
    if excess > _NOISE:
        draft = _with(draft, faults.OUTSIDE.found(excess=excess))
    return draft, inside


def _with(draft: Draft, finding: Finding) -> Draft:
    return replace(draft, findings=(*draft.findings, finding))


@dataclass(frozen=True)
class Wanted:
    """What whoever converts says about the source, for the readers to recognise it by."""

    format: str = "auto"  # auto, or the only format to try
    labels: str = ""  # a file or folder in the source that holds the labels; empty: look everywhere
    coordinates: str = "relative"  # of YOLO rows and answers: relative, or how their pixels are to be read
    kpt_shape: str = ""  # of YOLO rows: `17x3`, `0`, or empty: as the set says or shows
    scratch: Path | None = None  # a folder for what a reader must put on disk: an index, embedded pictures
