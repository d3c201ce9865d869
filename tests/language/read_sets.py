"""Small sets in formats other than YOLO, what reading them gives, and the real set that exists in many formats."""

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from vlyard.formats.faults import Policy
from vlyard.formats.picture import picture_size
from vlyard.formats.reading import Reader, Reading, Row, Stray, Unit, Wanted
from vlyard.formats.record import Look, Target
from vlyard.formats.tree import Tree

Recognise = Callable[[Tree, Wanted], Reader | None]
Boxes = list[tuple[str, tuple[int, int, int, int]]]


@dataclass
class Result:
    """A set that was read to its end."""

    reader: Reader
    readings: dict[str, Reading] = field(default_factory=dict)  # by the unit's name
    units: dict[str, Unit] = field(default_factory=dict)
    strays: list[Stray] = field(default_factory=list)

    @property
    def targets(self) -> list[Target]:
        return [target for reading in self.readings.values() for target in reading.targets]

    @property
    def rows(self) -> list[Row]:
        return [row for reading in self.readings.values() for row in reading.rows]

    @property
    def codes(self) -> list[str]:
        """Of every finding in a unit."""
        return [finding.fault.code for row in self.rows for finding in row.findings]

    @property
    def left_over(self) -> list[tuple[str, str]]:
        """Of every stray: where it is, and its code."""
        return [(str(stray.place), stray.finding.fault.code) for stray in self.strays]

    @property
    def accounted(self) -> int:
        """How many annotations the whole account speaks of."""
        read = sum(reading.annotations for reading in self.readings.values())
        return read + sum(stray.annotations for stray in self.strays)

    @property
    def splits(self) -> dict[str, str]:
        return {name: unit.split for name, unit in self.units.items()}


def put(root: Path, files: Mapping[str, object]) -> Path:
    """Write a set: bytes and text as they are, everything else as JSON. Nobody looks into its pictures."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else ""
        if not isinstance(content, bytes | str):
            text = json.dumps(content, ensure_ascii=False)
        path.write_bytes(content if isinstance(content, bytes) else text.encode())
    return root.resolve()


def recognised(recognise: Recognise, root: Path, scratch: Path, labels: str = "", format: str = "auto") -> Reader:
    """The reader of a set, as another process gets it."""
    reader = recognise(Tree(root.resolve()), Wanted(format, labels, scratch=scratch))
    assert reader is not None
    made: Reader = pickle.loads(pickle.dumps(reader))
    return made


def read(
    recognise: Recognise,
    root: Path,
    *,
    labels: str = "",
    policy: Policy = "fix",
    look: Look | Callable[[Unit], Look] = Look(100, 100),
) -> Result:
    """Read a whole set."""
    with TemporaryDirectory() as scratch:
        result = Result(recognised(recognise, root, Path(scratch), labels))
        for unit in result.reader.units():
            if isinstance(unit, Stray):
                result.strays.append(unit)
                continue
            assert unit.name not in result.units
            reading = Reading(policy)
            result.reader.read(unit, look(unit) if callable(look) else look, reading)
            result.units[unit.name], result.readings[unit.name] = unit, reading
    return result


def nine_formats(recognise: Recognise, shared_data: Path, labels: str) -> tuple[dict[str, Boxes], dict[str, Boxes]]:
    """The boxes of the real set's 100 pictures as a reader gives them, and as its YOLO files say, computed here."""
    root = shared_data / "nine-formats"
    result = read(recognise, root, labels=labels, policy="strict", look=_look)
    assert (result.rows, result.strays) == ([], [])
    given = {
        Path(name).stem: sorted((target.label, target.box.to_thousand()) for target in reading.targets)
        for name, reading in result.readings.items()
    }
    names = (root / "gts/yolo_format/obj.names").read_text().split()
    return given, {path.stem: _yolo(path, names) for path in (root / "gts/yolo_format/obj_train_data").glob("*.txt")}


def _look(unit: Unit) -> Look:
    return Look(*picture_size(Path(unit.path)))


def _yolo(path: Path, names: list[str]) -> Boxes:
    boxes = []
    for line in path.read_text().splitlines():
        number, *values = line.split()
        x, y, width, height = map(float, values)
        edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        x1, y1, x2, y2 = (round(min(max(edge, 0.0), 1.0) * 1000) for edge in edges)
        boxes.append((names[int(number)], (x1, y1, x2, y2)))
    return sorted(boxes)
