"""LabelMe's JSON: a file for each picture, with shapes in pixels, as labelme, X-AnyLabeling and others write it.

Pictures without a file, beside pictures that have one, show no object. A picture that is not in the set, and is held by
its label file, is taken from there. Formats: https://github.com/wkentaro/labelme and its forks.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import dist
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from vlyard.formats import faults
from vlyard.formats.classes import Classes
from vlyard.formats.readers.drafting import draft_each
from vlyard.formats.readers.filling import Filling
from vlyard.formats.readers.json_kinds import Kind, kind_of
from vlyard.formats.readers.label_files import label_files
from vlyard.formats.readers.listing import Entry, Listing
from vlyard.formats.readers.pixels import Raster
from vlyard.formats.readers.polygons import bounds
from vlyard.formats.readers.splits import split_of_folder
from vlyard.formats.readers.values import attributes, numbers, shown, size
from vlyard.formats.reading import Draft, Place, Reading, Refused, Stray, Unit, Wanted
from vlyard.formats.record import Corner, Look
from vlyard.formats.tree import Tree, storable

_LARGEST = 2**28  # bytes of a file that describes one picture, and may hold it
_HELD = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}
_NO_ATTRIBUTES = frozenset({"label", "points", "shape_type", "flags", "attributes", "mask", "line_color", "fill_color"})


class _Unreadable(Exception):
    """The file is no label that can be read."""


@dataclass(frozen=True)
class LabelmeReader:
    """A LabelMe set as it was recognised."""

    listing: Listing
    pictures: Path  # where pictures that are in label files alone are put
    ids: Mapping[str, int]
    classes: Classes
    evidence: tuple[str, ...]
    layout: str  # same_folder or apart
    described_by: str
    splits: tuple[str, ...]
    format: str = "labelme"

    def units(self) -> Iterator[Unit | Stray]:
        """As `Reader.units`; pictures that label files hold are written as they come."""
        damaged = []
        for key, entry in self.listing.held():
            unit = self._held(key, entry)
            if isinstance(unit, Unit):
                yield unit
            else:
                damaged.append(unit)
        yield from self.listing.units()
        yield from damaged

    def read(self, unit: Unit, look: Look, reading: Reading) -> None:
        """As `Reader.read`."""
        if unit.label is None:
            return
        place = Place(storable(self.listing.tree.name(unit.label)))
        try:
            said = _loaded(Path(unit.label))
        except _Unreadable as damage:
            reading.note(place, faults.UNREADABLE_LABEL.found(damage=damage))
            return
        shapes = [(f"shapes[{number}]", shape) for number, shape in enumerate(said["shapes"])]
        declared = size(said.get("imageWidth"), said.get("imageHeight"))
        draft_each(place, declared, shapes, partial(_draft, self.ids), look=look, reading=reading)

    def _held(self, key: int, entry: Entry) -> Unit | Stray:
        """The picture that a label file holds, written where the converter finds it."""
        label = self.listing.tree.root / entry.label
        try:
            content = base64.b64decode(_loaded(label)["imageData"], validate=False)
        except (_Unreadable, binascii.Error, ValueError, TypeError) as damage:
            finding = faults.UNREADABLE_PICTURE.found(damage=f"imageData is no picture: {damage}")
            return Stray(entry.place, finding, picture=True, annotations=entry.annotations)
        suffix = next((suffix for mark, suffix in _HELD.items() if content.startswith(mark)), "")
        if not suffix:
            finding = faults.UNREADABLE_PICTURE.found(damage="imageData is no picture of a known format")
            return Stray(entry.place, finding, picture=True, annotations=entry.annotations)
        self.pictures.mkdir(exist_ok=True)
        path = self.pictures / f"{key}{suffix}"
        path.write_bytes(content)
        name = str(PurePosixPath(entry.label).with_suffix(suffix))
        return Unit(name, str(path), entry.split, str(label), key)


# --- one shape ------------------------------------------------------------------------------------------------


def _draft(ids: Mapping[str, int], shape: object, pixels: Raster) -> Draft:
    if not isinstance(shape, dict):
        raise Refused(faults.MALFORMED.found(field="the shape", value=shown(shape), due="a table"))
    label = _label(shape)
    if not label:
        raise Refused(faults.NO_LABEL.found())
    points = _points(shape.get("points"))
    kind = shape.get("shape_type") or ("polygon" if len(points) > 2 else "rectangle")
    reading = _SHAPES.get(kind) if isinstance(kind, str) else None
    read = reading(points) if reading else None
    if read is None:
        raise Refused(faults.SHAPE_UNKNOWN.found(shape=shown(kind), count=len(points)))
    corners, outline, places = read
    keypoints = [pixels.keypoint(x, y, "", True) for x, y in places]
    return Draft(
        ids[label],
        label,
        pixels.box(corners),
        pixels.findings,
        pixels.outline(outline),
        tuple(keypoint for keypoint in keypoints if keypoint is not None),
        {
            **attributes(shape, _NO_ATTRIBUTES),
            **attributes(shape.get("flags")),
            **attributes(shape.get("attributes")),
        },
        is_point=len(places) == 1,
    )


def _points(said: object) -> tuple[Corner, ...]:
    if not isinstance(said, list):
        raise Refused(faults.MALFORMED.found(field="points", value=shown(said), due="a list of points"))
    return tuple((x, y) for x, y in (numbers("a point", each, 2)[0] for each in said))


_Read = tuple[Sequence[float], Sequence[Corner], Sequence[Corner]]  # box, outline, and places without extent


def _spanned(points: Sequence[Corner]) -> _Read | None:
    return (bounds(points), (), ()) if len(points) >= 2 else None


def _outlined(points: Sequence[Corner]) -> _Read | None:
    return (bounds(points), points, ()) if len(points) >= 3 else None


def _circle(points: Sequence[Corner]) -> _Read | None:
    """Its centre, and a point on it."""
    if len(points) != 2:
        return None
    (x, y), radius = points[0], dist(*points)
    return (x - radius, y - radius, x + radius, y + radius), (), ()


def _places(points: Sequence[Corner]) -> _Read | None:
    return (bounds(points), (), points) if points else None


_SHAPES: Mapping[str, Callable[[Sequence[Corner]], _Read | None]] = {
    "rectangle": _spanned,
    "polygon": _outlined,
    "circle": _circle,
    "line": _spanned,
    "linestrip": _spanned,
    "point": lambda points: _places(points) if len(points) == 1 else None,
    "points": _places,
    "mask": _spanned,  # the corners of its box; the mask itself is not read
    "rotation": _outlined,
    "oriented_rectangle": _outlined,
    "quadrilateral": _outlined,
}


# --- recognising ----------------------------------------------------------------------------------------------


def recognise(tree: Tree, wanted: Wanted) -> LabelmeReader | None:
    """The set, where it has files in this format. Raises `InvalidInput` where `wanted.labels` is not there."""
    first = next((path for path in label_files(tree, wanted, {".json"}) if kind_of(path) is Kind.LABELME), None)
    if first is None:
        return None
    names: set[str] = set()
    count = broken = 0
    with Filling(tree, wanted, "labelme") as filling:
        for path in label_files(tree, wanted, {".json"}):
            entry, labels, readable = _entry(tree, path)
            if not readable and kind_of(path) is not Kind.LABELME and not _may_be_one(path):
                continue
            filling.add(entry)
            names |= labels
            count += 1
            broken += not readable
        listing = filling.listing(joined=False, unlabelled=True)
    classes = Classes.named(names)
    said = [f"{count} JSON files have shapes of one picture, such as {tree.name(first)}"]
    said += [f"{broken} of them cannot be read"] if broken else []
    ids = {name: class_id for class_id, name in (classes.names or {}).items()}
    beside = any(path.parent == first.parent for path in tree.pictures(first.parent))
    return LabelmeReader(
        listing,
        listing.file.with_suffix(".pictures"),
        ids,
        classes,
        tuple(map(storable, said)),
        "same_folder" if beside else "apart",
        storable(tree.name(first)),
        listing.splits(),
    )


def _may_be_one(path: Path) -> bool:
    """Whether a file that is broken from its beginning has the name of a picture beside it."""
    return any(path.with_suffix(suffix).is_file() for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".bmp"))


def _entry(tree: Tree, path: Path) -> tuple[Entry, set[str], bool]:
    """What the file says of its picture, the classes in it, and whether it can be read."""
    place = Place(tree.name(path))
    split = split_of_folder(str(PurePosixPath(place.file).parent))
    try:
        said = _loaded(path)
    except _Unreadable:
        return Entry(place, "", path.stem, split), set(), False
    written = said.get("imagePath")
    labels = {_label(shape) for shape in said["shapes"] if isinstance(shape, dict)} - {""}
    held = isinstance(said.get("imageData"), str) and bool(said["imageData"])
    count = len(said["shapes"])
    written = written if isinstance(written, str) else ""
    return Entry(place, written, path.stem, split, annotations=count, held=held), labels, True


def _label(shape: dict[str, Any]) -> str:
    label = shape.get("label")
    return storable(str(label).strip()) if isinstance(label, str | int) else ""


def _loaded(path: Path) -> dict[str, Any]:
    """The file's table, with its list of shapes. Raises `_Unreadable`."""
    try:
        if path.stat().st_size > _LARGEST:
            raise _Unreadable(f"it has more than {_LARGEST} bytes")
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise _Unreadable(error.strerror or str(error)) from None
    try:
        said = orjson.loads(content)
    except ValueError:
        said = _leniently(content)
    if not isinstance(said, dict) or not isinstance(said.get("shapes"), list):
        raise _Unreadable("it has no list of shapes")
    return said


def _leniently(content: bytes) -> Any:
    """What Python writes and JSON does not know: NaN, Infinity and integers of any length."""
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise _Unreadable("it is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"this is not JSON: {storable(str(error))[:200]}") from None
