"""YOLO data sets: detection, segmentation, turned boxes and poses, however they are laid out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, cast

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.classes import Classes
from vlyard.formats.readers import yolo_layouts
from vlyard.formats.readers.yolo_layouts import SAME_FOLDER, Dataset
from vlyard.formats.readers.yolo_pairs import runs, units
from vlyard.formats.readers.yolo_rows import Coordinates, Rows, first_rows, is_pose, looks_like_rows
from vlyard.formats.reading import Reading, Run, Stray, Unit, Wanted
from vlyard.formats.record import Look
from vlyard.formats.tree import Tree, storable

_SAMPLED = 200  # label files that are looked into before all are read
_ROWS_EACH = 20
_NO_KEYPOINTS = "0"
_SAME = 0.002  # by how much rounded corners of a turned box may miss it, as a part of the picture


@dataclass(frozen=True)
class YoloReader:
    """A YOLO set as it was recognised."""

    dataset: Dataset
    rows: Rows
    evidence: tuple[str, ...]
    format: str = "yolo"

    @property
    def layout(self) -> str:
        return self.dataset.layout

    @property
    def classes(self) -> Classes:
        return self.dataset.classes

    @property
    def described_by(self) -> str:
        return self.dataset.described_by

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(split.name for split in self.dataset.splits))

    def units(self) -> Iterator[Unit | Stray]:
        """As `Reader.units`."""
        return units(self.dataset)

    def runs(self) -> Iterator[Unit | Run | Stray]:
        """As `units`, with many pictures at once where that is possible."""
        return runs(self.dataset)

    def read(self, unit: Unit, look: Look, reading: Reading) -> None:
        """As `Reader.read`: a picture without a label file shows no object."""
        if unit.label is not None:
            self.rows.read(unit.label, storable(self.dataset.tree.name(unit.label)), look, reading)


def described(tree: Tree, wanted: Wanted) -> YoloReader | None:
    """The set, where a data.yaml or an obj.data describes it. Raises `InvalidInput` where that is broken."""
    if wanted.format == "auto" and wanted.labels and not _has_rows(tree, wanted.labels):
        return None  # what was pointed at is in another format
    dataset = yolo_layouts.described(tree)
    return None if dataset is None else _reader(dataset, wanted)


def undescribed(tree: Tree, wanted: Wanted) -> YoloReader:
    """Every picture with its label file beside it, or where custom puts it: what any folder can be read as."""
    return _reader(yolo_layouts.same_folder(tree), wanted)


def _reader(dataset: Dataset, wanted: Wanted) -> YoloReader:
    tree, evidence = dataset.tree, list(dataset.evidence)
    if wanted.labels:
        labels = tree.find(wanted.labels, [tree.root])
        if labels is None or not labels.is_dir():
            complaint = Complaint("labels", f"{wanted.labels} is no folder of the source", "name a folder with labels")
            raise InvalidInput("The labels cannot be found", [complaint])
        dataset = replace(dataset, labels=labels)
        evidence.append(f"labels are read from {tree.name(labels)}, as asked")
    sampled = list(islice((unit for unit in units(dataset) if isinstance(unit, Unit) and unit.label), _SAMPLED))
    if dataset.layout == SAME_FOLDER and sampled:
        folders = dict.fromkeys(tree.name(cast(str, unit.label)).rpartition("/")[0] or "." for unit in sampled)
        evidence.append(f"labels lie in {', '.join(list(folders)[:5])}{' and elsewhere' if len(folders) > 5 else ''}")
    seen = [row for unit in sampled for row in first_rows(cast(str, unit.label), _ROWS_EACH)]
    confidence, remark = _confidence(seen)
    evidence += remark
    keypoints, remark = _keypoints(dataset, wanted, seen)
    evidence += remark
    rows = Rows(
        dataset.classes,
        confidence,
        keypoints,
        dataset.keypoint_names,
        cast(Coordinates, wanted.coordinates),
        wanted.kpt_shape == _NO_KEYPOINTS,
    )
    return YoloReader(dataset, rows, tuple(map(storable, evidence)))


def _has_rows(tree: Tree, labels: str) -> bool:
    folder = tree.find(labels, [tree.root])
    if folder is None or not folder.is_dir():
        return False
    return any(path.suffix.lower() == ".txt" and looks_like_rows(str(path)) for path in tree.walk(folder))


def _keypoints(
    dataset: Dataset, wanted: Wanted, rows: Sequence[Sequence[str]]
) -> tuple[tuple[int, int] | None, list[str]]:
    """How many keypoints rows have, and numbers for each: as was said, else as every long row shows it."""
    if wanted.kpt_shape:
        count, _, numbers_each = wanted.kpt_shape.partition("x")
        asked = None if wanted.kpt_shape == _NO_KEYPOINTS else (int(count), int(numbers_each))
        return asked, [f"kpt_shape is {wanted.kpt_shape}, as asked"]
    long = [row for row in rows if len(row) > 6]
    if dataset.keypoints is not None or wanted.coordinates != "relative" or len({len(row) for row in long}) != 1:
        return dataset.keypoints, []
    numbers = len(long[0]) - 5
    boxes = any(len(row) == 5 for row in rows)  # beside these, points of two numbers are outlines
    for each in (3, 2):
        if all(is_pose(row[1:], each) for row in long) and (each == 3 or not (boxes or all(map(_is_turned, long)))):
            shape = numbers // each, each
            what = (
                f"rows of {numbers + 5} fields are boxes with {shape[0]} keypoints of {each} numbers, which they hold"
            )
            return shape, [f"{what} (if these are outlines, say kpt_shape=0)"]
    return None, []


def _is_turned(row: Sequence[str]) -> bool:
    """Whether the numbers are the corners of a turned box: its diagonals have one middle."""
    if len(row) != 9:
        return False
    x1, y1, x2, y2, x3, y3, x4, y4 = map(float, row[1:])
    return abs(x1 + x3 - x2 - x4) <= _SAME and abs(y1 + y3 - y2 - y4) <= _SAME


def _confidence(rows: Sequence[Sequence[str]]) -> tuple[Literal["last", "second"], list[str]]:
    """Where rows of six fields have their confidence: where what is left are boxes that lie in their pictures.

    Detectors write it last, as Ultralytics does; other tools write `class confidence x y w h`.
    """
    six = [row for row in rows if len(row) == 6]
    if not six:
        return "last", []
    last = sum(_is_box(row[1:5]) and _is_box_number(row[5]) for row in six)
    second = sum(_is_box(row[2:6]) and _is_box_number(row[1]) for row in six)
    place: Literal["last", "second"] = "second" if second > last else "last"
    return place, [f"rows of six fields have a confidence, {place}: so {max(last, second)} of {len(six)} are boxes"]


def _is_box_number(written: str) -> bool:
    try:
        return 0 <= float(written) <= 1
    except ValueError:
        return False


def _is_box(fields: Sequence[str]) -> bool:
    if not all(map(_is_box_number, fields)):
        return False
    x, y, width, height = map(float, fields)
    return min(x - width / 2, y - height / 2) >= -0.01 and max(x + width / 2, y + height / 2) <= 1.01
