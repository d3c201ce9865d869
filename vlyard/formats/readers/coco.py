"""COCO's JSON: images, annotations and categories in one file, or in a file for each split.

The files are streamed into a listing on disk, so that memory does not grow with them. The format is that of
https://cocodataset.org/#format-data, as CVAT, Roboflow, LVIS and others write it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import orjson

from vlyard.formats import faults
from vlyard.formats.classes import Classes
from vlyard.formats.faults import Finding
from vlyard.formats.readers.drafting import draft_each
from vlyard.formats.readers.filling import Filling
from vlyard.formats.readers.json_kinds import BrokenJson, Kind, entries, kind_of
from vlyard.formats.readers.label_files import invalid, label_files
from vlyard.formats.readers.listing import Entry, Listing
from vlyard.formats.readers.pixels import Raster
from vlyard.formats.readers.polygons import area, bounds, pairs
from vlyard.formats.readers.splits import split_of_file
from vlyard.formats.readers.values import attributes, number, numbers, shown, size
from vlyard.formats.reading import Draft, Place, Reading, Refused, Stray, Unit, Wanted
from vlyard.formats.record import Corner, Keypoint, Look
from vlyard.formats.tree import Tree, storable

_NOT_SAID = ("id", "image_id", "area")  # of an annotation: what nothing is read from
_NO_ATTRIBUTES = frozenset({"category_id", "bbox", "segmentation", "keypoints", "num_keypoints", "attributes"})
_FIX = "export it again, with images, annotations and categories"


class Category(NamedTuple):
    """A category of one file."""

    class_id: int  # of the whole set
    label: str
    keypoints: tuple[str, ...]


@dataclass(frozen=True)
class CocoReader:
    """A COCO set as it was recognised."""

    listing: Listing
    files: tuple[str, ...]
    categories: tuple[Mapping[str, Category], ...]  # of each file, by their ids there
    classes: Classes
    evidence: tuple[str, ...]
    layout: str  # roboflow or instances
    splits: tuple[str, ...]
    format: str = "coco"

    @property
    def described_by(self) -> str:
        return self.files[0]

    def units(self) -> Iterator[Unit | Stray]:
        """As `Reader.units`."""
        yield from self.listing.units()
        for source, annotation, image in self.listing.lost():
            place = Place(self.files[source], entry=f"annotations[{annotation}]")
            yield Stray(place, faults.IMAGE_UNKNOWN.found(id=shown(image)), annotations=1)

    def read(self, unit: Unit, look: Look, reading: Reading) -> None:
        """As `Reader.read`."""
        for again, entry in enumerate(self.listing.entries(unit.key or 0)):
            if again:
                reading.note(entry.place, faults.LISTED_AGAIN.found())
            said = [(f"annotations[{place}]", each) for place, each in self.listing.annotations(entry)]
            drafting = partial(self._draft, self.categories[entry.source])
            draft_each(entry.place, entry.size, said, drafting, look=look, reading=reading)

    def _draft(self, categories: Mapping[str, Category], said: bytes, pixels: Raster) -> Draft:
        annotation = orjson.loads(said or b"0")
        if not isinstance(annotation, dict):
            raise Refused(faults.MALFORMED.found(field="the annotation", value=shown(annotation), due="a table"))
        category_id = annotation.get("category_id")
        category = categories.get(_ident(category_id))
        if category is None:
            raise Refused(faults.CLASS_OUT_OF_RANGE.found(value=shown(category_id), known=self.classes.known))
        rings, damage = _rings(annotation.get("segmentation"))
        findings = [*pixels.findings]
        if isinstance(annotation.get("segmentation"), dict):
            findings.append(faults.MASK_LEFT_OUT.found())
        if damage:
            findings.append(faults.PART_UNUSABLE.found(part="outline", damage=damage))
        corners, mended = _corners(annotation.get("bbox"), rings)
        keypoints, more = _keypoints(annotation.get("keypoints"), category, pixels)
        outline, *more_outlines = map(pixels.outline, sorted(rings, key=area, reverse=True) or [()])
        return Draft(
            category.class_id,
            category.label,
            pixels.box(corners),
            (*findings, *mended, *more),
            outline,
            keypoints,
            {**attributes(annotation, _NO_ATTRIBUTES), **attributes(annotation.get("attributes"))},
            more_outlines=tuple(more_outlines),
        )


def _corners(bbox: object, rings: list[tuple[Corner, ...]]) -> tuple[tuple[float, ...], tuple[Finding, ...]]:
    if bbox is None or bbox == []:
        if not rings:
            raise Refused(faults.NO_BOX.found())
        return bounds([point for ring in rings for point in ring]), ()
    (x, y, width, height), findings = numbers("bbox", bbox, 4)
    if width <= 0 or height <= 0:
        raise Refused(faults.NO_AREA.found(width=width, height=height))
    return (x, y, x + width, y + height), findings


def _rings(said: object) -> tuple[list[tuple[Corner, ...]], str]:
    """The outlines that have an area, and what is wrong with the others; of a mask in run lengths none."""
    if said is None or isinstance(said, dict):
        return [], ""
    if not isinstance(said, list):
        return [], f"it is {shown(said)}"
    listed = said if any(isinstance(each, list) for each in said) else [said]
    rings, damage = [], ""
    for each in filter(None, listed):
        try:
            ring = pairs(numbers("outline", each)[0])
        except Refused as refused:
            damage = refused.finding.reason
        except ValueError:
            damage = "it has an odd number of coordinates"
        else:
            if len(ring) >= 3:
                rings.append(ring)
            else:
                damage = f"it has {len(ring)} points"
    return rings, "" if rings else damage


def _keypoints(said: object, category: Category, pixels: Raster) -> tuple[tuple[Keypoint, ...], list[Finding]]:
    """The keypoints that were labelled: x, y and v, where v is 0 for none, 1 for a hidden and 2 for a visible one."""
    if said is None or said == []:
        return (), []
    try:
        values, findings = numbers("keypoints", said)
        threes = list(zip(values[::3], values[1::3], values[2::3], strict=True))
    except Refused as refused:
        return (), [faults.PART_UNUSABLE.found(part="keypoints", damage=refused.finding.reason)]
    except ValueError:
        damage = "they are no triples of x, y and visibility"
        return (), [faults.PART_UNUSABLE.found(part="keypoints", damage=damage)]
    found, outside = [], []
    for place, (x, y, visibility) in enumerate(threes):
        name = category.keypoints[place] if place < len(category.keypoints) else ""
        if not visibility:
            continue
        keypoint = pixels.keypoint(x, y, name, visibility > 1)
        if keypoint is None:
            outside.append(faults.KEYPOINT_OUTSIDE.found(name=name or place + 1))
        else:
            found.append(keypoint)
    return tuple(found), [*findings, *outside]


# --- recognising, and reading the files once ------------------------------------------------------------------


def recognise(tree: Tree, wanted: Wanted) -> CocoReader | None:
    """The set, where it has such files. Raises `InvalidInput` where these are broken or contradict one another."""
    files, results = [], []
    for path in label_files(tree, wanted, {".json"}):
        kind = kind_of(path)
        files += [path] if kind is Kind.COCO else []
        results += [path] if kind is Kind.RESULTS else []
    if not files:
        if results and (wanted.labels or wanted.format == "coco"):
            what = "it is a bare list of detections, as models give them, and names neither pictures nor classes"
            raise invalid(tree.name(results[0]), what, "name the file with images, annotations and categories")
        return None
    found = _Files()
    with Filling(tree, wanted, "coco") as filling:
        for path in files:
            found.read(tree, path, filling)
        if not found.names:
            if wanted.labels or wanted.format == "coco":
                raise invalid(tree.name(files[0]), "it has no categories, no images or no annotations", _FIX)
            return None
        filling.identify()
        listing = filling.listing(joined=True, unlabelled=False)
    _check_shared(listing, found.names)
    classes, categories, remarks = _classes(found.names, found.categories)
    return CocoReader(
        listing,
        tuple(map(storable, found.names)),
        categories,
        classes,
        tuple(map(storable, [*found.evidence, *remarks])),
        "roboflow" if any(Path(name).name == "_annotations.coco.json" for name in found.names) else "instances",
        listing.splits(),
    )


@dataclass
class _Files:
    """What the files say before their annotations are looked at."""

    names: list[str] = field(default_factory=list)
    categories: list[list[tuple[str, str, tuple[str, ...]]]] = field(default_factory=list)  # id, name, keypoints
    evidence: list[str] = field(default_factory=list)

    def read(self, tree: Tree, path: Path, filling: Filling) -> None:
        """Put a file into the listing, unless it is of COCO's other kinds, which have no boxes."""
        name = tree.name(path)
        try:
            categories = [_category(name, place, each) for place, each in enumerate(entries(path, "categories.item"))]
            if not categories or not any(True for _ in entries(path, "annotations.item")):
                self.evidence.append(f"{name} has no categories or no annotations, and is left out")
                return
            source, split = len(self.names), split_of_file(name) or "train"
            images = annotations = 0
            for entry in _images(name, path, source, split):
                filling.add(entry)
                images += 1
            if not images:
                raise invalid(name, "it lists no images", _FIX)
            for batch in _annotations(path, source):
                filling.annotate(batch)
                annotations += len(batch)
        except BrokenJson as error:
            raise invalid(name, f"this is not JSON: {error}", _FIX) from None
        self.names.append(name)
        self.categories.append(categories)
        self.evidence.append(f"{name} lists {images} images and {annotations} annotations, for {split}")


def _images(name: str, path: Path, source: int, split: str) -> Iterator[Entry]:
    for place, image in enumerate(entries(path, "images.item")):
        said = image if isinstance(image, dict) else {}
        written = said.get("file_name") or str(said.get("coco_url") or "").partition("://")[2]
        ident = _ident(said.get("id")) or f"?{place}"
        where = Place(name, entry=f"images[{place}]")
        written = written if isinstance(written, str) else ""
        yield Entry(where, written, "", split, source, ident, size(said.get("width"), said.get("height")))


def _annotations(path: Path, source: int) -> Iterator[list[tuple[int, int, str, bytes]]]:
    batch = []
    for place, annotation in enumerate(entries(path, "annotations.item")):
        image = _ident(annotation.get("image_id")) if isinstance(annotation, dict) else ""
        batch.append((source, place, image, _said(annotation)))
        if len(batch) == 1000:
            yield batch
            batch = []
    yield batch


def _said(annotation: object) -> bytes:
    """What is kept of an annotation until it is read; nothing where that cannot be."""
    if not isinstance(annotation, dict):
        return b""
    kept = {key: value for key, value in annotation.items() if key not in _NOT_SAID}
    if isinstance(kept.get("segmentation"), dict):  # run lengths are long, and are not read
        kept["segmentation"] = {}
    try:
        return orjson.dumps(kept)
    except TypeError:
        pass
    try:
        return json.dumps(kept).encode()  # integers of any length
    except RecursionError:
        return b""


def _ident(value: object) -> str:
    """An id as text: `12`, `12.0` and `"12"` are the same; empty where it is none."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    whole = number(value)
    if whole is None:
        return ""
    return str(int(value)) if isinstance(value, int | float) and whole % 1 == 0 else shown(value)


def _category(name: str, place: int, said: object) -> tuple[str, str, tuple[str, ...]]:
    where = f"{name}: categories[{place}]"
    ident = _ident(said.get("id")) if isinstance(said, dict) else ""
    label = said.get("name") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not ident or not isinstance(label, str | int) or not str(label).strip():
        raise invalid(where, "it has no id or no name", 'write {"id": 1, "name": "cat"}')
    keypoints = said.get("keypoints")
    names = keypoints if isinstance(keypoints, list) else []
    return ident, storable(str(label).strip()), tuple(storable(str(each)) for each in names)


def _classes(
    files: list[str], categories: list[list[tuple[str, str, tuple[str, ...]]]]
) -> tuple[Classes, tuple[Mapping[str, Category], ...], list[str]]:
    """The classes by the files' own ids where all agree, else by name."""
    for name, listed in zip(files, categories, strict=True):
        seen: dict[str, str] = {}
        for ident, label, _ in listed:
            if seen.setdefault(ident, label) != label:
                raise invalid(name, f"two categories have the id {ident}: {seen[ident]} and {label}", "number them")
    named = {(ident, label) for listed in categories for ident, label, _ in listed}
    own = len({ident for ident, _ in named}) == len(named) and all(ident.isdecimal() for ident, _ in named)
    if own:
        classes = Classes({int(ident): label for ident, label in sorted(named, key=lambda each: int(each[0]))})
        remarks = []
    else:
        classes = Classes.named(label for _, label in named)
        remarks = ["category ids are no numbers, or differ between files, so classes are numbered by name"]
    by_name = {label: class_id for class_id, label in (classes.names or {}).items()}
    return (
        classes,
        tuple(
            {ident: Category(int(ident) if own else by_name[label], label, points) for ident, label, points in listed}
            for listed in categories
        ),
        remarks,
    )


def _check_shared(listing: Listing, files: list[str]) -> None:
    for first, second, shared, listed in listing.shared():
        if 2 * shared > listed:
            what = f"both list the same {shared} pictures"
            raise invalid(f"{files[first]}, {files[second]}", what, "say which one to read, as `labels`")
