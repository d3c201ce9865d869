"""Labels as Pascal VOC has them: `JPEGImages/`, an XML file for each picture in `Annotations/`, `ImageSets/Main/`.

Edges are pixels from 0, with decimals where they need them, as today's tools write them; the challenge's own were
whole and from 1.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from xml.sax.saxutils import escape

from vlyard.formats.box import Box
from vlyard.formats.record import Look, Question, Record, Target
from vlyard.formats.tree import storable
from vlyard.formats.writers.coco import DIGITS, sized
from vlyard.formats.writers.digits import Corners, shortest
from vlyard.formats.writing import KEYPOINTS, OUTLINES, Frame, Made, Piece

_PICTURES, _LISTS = "JPEGImages", "ImageSets/Main"
_FLAGS = ("truncated", "difficult", "occluded")  # attributes that VOC has elements for
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


@dataclass(frozen=True)
class VocWriter:
    """Writes an XML file for each picture, and a list of pictures for each split."""

    negatives: bool = True
    unique_stems: bool = True

    @property
    def drops(self) -> Mapping[str, str]:
        return {**OUTLINES, **KEYPOINTS}

    def place(self, split: str, name: str) -> str:
        """As in the source, below `JPEGImages/`."""
        del split
        return f"{_PICTURES}/{name}"

    def frame(self, file: str) -> Frame | None:
        """Of the lists; an XML file is one picture's."""
        return Frame(b"", b"\n", b"\n") if file.startswith(_LISTS) else None

    def render(self, record: Record, questions: Sequence[Question]) -> Sequence[Piece]:
        """The picture's XML, and its line in the list. Raises `InvalidInput` where the picture's size is not known."""
        del questions
        look = sized(record, "voc")
        name = PurePosixPath(*PurePosixPath(record.picture).parts[1:])
        xml = "\n".join(["<annotation>", *_head(name, look), *_objects(record.targets, look), "</annotation>", ""])
        return (
            Piece(f"Annotations/{name.with_suffix('.xml')}", (xml.encode(),)),
            Piece(f"{_LISTS}/{record.split}.txt", (str(name.with_suffix("")).encode(),)),
        )

    def finish(self, made: Made) -> Mapping[str, str]:
        """Nothing is left to write; returns the list of each split."""
        return {split: f"{_LISTS}/{split}.txt" for split in made.splits}


def _head(name: PurePosixPath, look: Look) -> Iterator[str]:
    folder = PurePosixPath(_PICTURES, name).parent
    yield f"  <folder>{_text(str(folder))}</folder>"
    yield f"  <filename>{_text(name.name)}</filename>"
    yield f"  <size><width>{look.width}</width><height>{look.height}</height><depth>3</depth></size>"
    yield "  <segmented>0</segmented>"


def _objects(targets: Sequence[Target], look: Look) -> Iterator[str]:
    for target in targets:
        yield "  <object>"
        yield f"    <name>{_text(target.label)}</name>"
        yield from (
            f"    <{flag}>{int(bool(target.attributes[flag]))}</{flag}>" for flag in _FLAGS if flag in target.attributes
        )
        edges = zip(("xmin", "ymin", "xmax", "ymax"), _edges(target.box, look), strict=True)
        yield f"    <bndbox>{''.join(f'<{edge}>{value!r}</{edge}>' for edge, value in edges)}</bndbox>"
        yield "  </object>"


def _edges(box: Box, look: Look) -> Corners:
    across, down = look.width, look.height

    def spelled(corners: Corners, digits: int) -> Corners:
        x1, y1, x2, y2 = corners
        return tuple(round(value, digits) for value in (x1 * across, y1 * down, x2 * across, y2 * down))

    def read(edges: Corners) -> Corners:
        x1, y1, x2, y2 = edges
        return x1 / across, y1 / down, x2 / across, y2 / down

    return shortest(box, spelled, read, DIGITS)


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", storable(text)))
