"""Pascal VOC's XML: a file for each picture, with corners in pixels, as labelImg, ImageNet, CVAT and Roboflow write it.

Corners are taken as they stand: tools disagree on whether the first pixel is 0 or 1, and a file does not say. Pictures
without a file, beside pictures that have one, show no object. Lists in ImageSets/Main say the splits.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from vlyard.formats import faults
from vlyard.formats.classes import Classes
from vlyard.formats.faults import Finding
from vlyard.formats.readers.drafting import draft_each
from vlyard.formats.readers.filling import Filling
from vlyard.formats.readers.label_files import label_files
from vlyard.formats.readers.listing import Entry, Listing
from vlyard.formats.readers.pixels import Raster
from vlyard.formats.readers.polygons import bounds, pairs, turned_box
from vlyard.formats.readers.splits import split_of_folder
from vlyard.formats.readers.values import number, numbers, size, value_of
from vlyard.formats.readers.voc_lists import Lists
from vlyard.formats.reading import Draft, Place, Reading, Refused, Stray, Unit, Wanted
from vlyard.formats.record import Corner, Look, Value
from vlyard.formats.tree import Tree, storable

_LARGEST = 2**26  # bytes of a file that describes one picture
_HEAD = 4_096
_ROOT = re.compile(r"<\s*([A-Za-z_][\w.-]*)(?=[\s/>])")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TURNED = ("cx", "cy", "w", "h", "angle")  # of roLabelImg: pixels, and radians clockwise


class _Unreadable(Exception):
    """The file is no XML that can be read."""


@dataclass(frozen=True)
class VocReader:
    """A VOC set as it was recognised."""

    listing: Listing
    ids: Mapping[str, int]
    classes: Classes
    evidence: tuple[str, ...]
    layout: str  # imagesets, roboflow, same_folder or apart
    described_by: str
    splits: tuple[str, ...]
    format: str = "voc"

    def units(self) -> Iterator[Unit | Stray]:
        """As `Reader.units`; what only a list names has no label."""
        for unit in self.listing.units():
            listed = isinstance(unit, Unit) and unit.label is not None and unit.label.endswith(".txt")
            yield unit._replace(label=None) if isinstance(unit, Unit) and listed else unit

    def read(self, unit: Unit, look: Look, reading: Reading) -> None:
        """As `Reader.read`."""
        if unit.label is None:
            return
        place = Place(storable(self.listing.tree.name(unit.label)))
        try:
            root = _parsed(Path(unit.label))
        except _Unreadable as damage:
            reading.note(place, faults.UNREADABLE_LABEL.found(damage=damage))
            return
        objects = [(f"object[{number}]", each) for number, each in enumerate(root.findall("object"))]
        declared = size(root.findtext("size/width"), root.findtext("size/height"))
        draft_each(place, declared, objects, self._draft, look=look, reading=reading)

    def _draft(self, said: Element, pixels: Raster) -> Draft:
        label = _name(said)
        if not label:
            raise Refused(faults.NO_LABEL.found())
        outline, damage = _outline(said)
        box = said.find("bndbox")
        if box is not None:
            corners: Sequence[float] = _numbers(box, "bndbox", _CORNERS)
        elif outline:
            corners = bounds(outline)
        else:
            raise Refused(damage or faults.NO_BOX.found())
        unused = [faults.PART_UNUSABLE.found(part="outline", damage=damage.reason)] if damage else []
        return Draft(
            self.ids[label],
            label,
            pixels.box(corners),
            (*pixels.findings, *unused),
            pixels.outline(outline),
            attributes=_attributes(said),
        )


def _name(said: Element) -> str:
    return storable((said.findtext("name") or "").strip())


def _numbers(said: Element, field: str, names: Sequence[str]) -> list[float]:
    texts = [(said.findtext(name) or "").strip() for name in names]
    found = [number(text) for text in texts]
    return numbers(field, [text if each is None else each for text, each in zip(texts, found, strict=True)])[0]


def _outline(said: Element) -> tuple[tuple[Corner, ...], Finding | None]:
    """The polygon or the corners of the turned box, and why the one that is there cannot be used."""
    turned, polygon = said.find("robndbox"), said.find("polygon")
    try:
        if turned is not None:
            return turned_box(*_numbers(turned, "robndbox", _TURNED)), None
        if polygon is not None:
            return _polygon(polygon), None
    except Refused as refused:
        return (), refused.finding
    return (), None


def _polygon(said: Element) -> tuple[Corner, ...]:
    """Points as x1, y1, x2, y2 and so on, or each in an element of its own that holds x and y."""
    apart = [each for each in said if each.find("x") is not None]
    if apart:
        points = tuple((x, y) for x, y in (_numbers(each, "polygon", ("x", "y")) for each in apart))
    else:
        count = sum(bool(re.fullmatch(r"[xX]\d+", each.tag)) for each in said)
        names = [name for place in range(1, count + 1) for name in (f"x{place}", f"y{place}")]
        points = pairs(_numbers(said, "polygon", names))
    if len(points) < 3:
        raise Refused(faults.SHAPE_UNKNOWN.found(shape="a polygon", count=len(points)))
    return points


def _attributes(said: Element) -> dict[str, Value]:
    texts: list[tuple[str | None, str | None]]
    texts = [(each.tag, each.text) for each in said if not len(each) and each.tag not in {"name", "type"}]
    texts += [(each.findtext("name"), each.findtext("value")) for each in said.findall("attributes/attribute")]
    filled = ((name, (text or "").strip()) for name, text in texts if name)
    return {storable(name): value_of(text) for name, text in filled if text and text != "Unspecified"}


def _parsed(path: Path) -> Element:
    """The file's root. Raises `_Unreadable`."""
    try:
        if path.stat().st_size > _LARGEST:
            raise _Unreadable(f"it has more than {_LARGEST} bytes")
        root = defusedxml.ElementTree.parse(path).getroot()
    except DefusedXmlException:
        raise _Unreadable("it declares entities, as attacks on readers of XML do: remove them") from None
    except OSError as error:
        raise _Unreadable(error.strerror or str(error)) from None
    except (ParseError, ValueError, LookupError) as error:
        raise _Unreadable(f"this is not XML: {storable(str(error))}") from None
    if root is None or root.tag != "annotation":
        raise _Unreadable("its outermost element is not annotation")
    return root


# --- recognising ----------------------------------------------------------------------------------------------


def recognise(tree: Tree, wanted: Wanted) -> VocReader | None:
    """The set, where it has files in this format. Raises `InvalidInput` where `wanted.labels` is not there."""
    first = next((path for path in label_files(tree, wanted, {".xml"}) if _root(path) == "annotation"), None)
    if first is None:
        return None
    lists = Lists.found(tree, first)
    names: set[str] = set()
    count = broken = 0
    with Filling(tree, wanted, "voc") as filling:
        for path in label_files(tree, wanted, {".xml"}):
            if _root(path) not in {"annotation", ""}:
                continue
            entry, labels, readable = _entry(tree, path)
            names |= labels
            count += 1
            broken += not readable
            lists.add(entry, filling)
        lists.add_others(filling)
        listing = filling.listing(joined=False, unlabelled=True, listed_only=bool(lists.lines))
    classes = Classes.named(names)
    said = [f"{count} XML files have an annotation element, such as {tree.name(first)}", *lists.evidence]
    said += [f"{broken} of them cannot be read"] if broken else []
    ids = {name: class_id for class_id, name in (classes.names or {}).items()}
    layout = "imagesets" if lists.lines else _layout(tree, first)
    evidence = tuple(map(storable, said))
    return VocReader(listing, ids, classes, evidence, layout, storable(tree.name(first)), listing.splits())


def _root(path: Path) -> str:
    """The outermost element's name; empty where the file begins with none."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return ""
    text = head.decode("utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8", "replace")
    found = _ROOT.search(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    return found[1] if found else ""


def _entry(tree: Tree, path: Path) -> tuple[Entry, set[str], bool]:
    """What the file says of its picture, the classes in it, and whether it can be read."""
    place = Place(tree.name(path))
    split = split_of_folder(str(PurePosixPath(place.file).parent))
    try:
        root = _parsed(path)
    except _Unreadable:
        return Entry(place, "", path.stem, split), set(), False
    objects = root.findall("object")
    written = (root.findtext("filename") or "").strip()
    return Entry(place, written, path.stem, split, annotations=len(objects)), {*map(_name, objects)} - {""}, True


def _layout(tree: Tree, first: Path) -> str:
    if any((folder / "README.roboflow.txt").is_file() for folder in (tree.root, first.parent, first.parent.parent)):
        return "roboflow"
    _, beside = next(tree.folders(first.parent))
    stems = {first.with_suffix(suffix).name for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".bmp")}
    return "same_folder" if stems & set(beside) else "apart"
