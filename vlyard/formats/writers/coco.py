"""Labels as COCO's detection files have them: `annotations/instances_<split>.json`, with boxes in pixels.

The file is put together from two that grow, since a picture adds to both of its lists. Ids of pictures are places in
the set, and those of categories the output's class ids, all from 1 as COCO has them.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.box import Box
from vlyard.formats.record import Look, Question, Record
from vlyard.formats.tree import storable
from vlyard.formats.writers.digits import Corners, shortest
from vlyard.formats.writing import KEYPOINTS, Frame, Made, Piece

DIGITS = (2, 6, 9)  # of pixels
_FOLDER = "annotations/"
_HALF = ".part"  # the list of annotations, until it stands behind that of images
_IMAGES = Frame(b'{"images": [\n', b",\n", b"\n]")
_ANNOTATIONS = Frame(b"", b",\n", b"", b'{"id":%d,')


@dataclass(frozen=True)
class CocoWriter:
    """Writes a file for each split."""

    negatives: bool = True
    unique_stems: bool = False

    @property
    def drops(self) -> Mapping[str, str]:
        return KEYPOINTS

    def place(self, split: str, name: str) -> str:
        """As in the source, below `images/`; `file_name` is the path from there."""
        del split
        return f"images/{name}"

    def frame(self, file: str) -> Frame | None:
        """Of the two lists of a split."""
        return _ANNOTATIONS if file.endswith(_HALF) else _IMAGES

    def render(self, record: Record, questions: Sequence[Question]) -> Sequence[Piece]:
        """The picture and its annotations. Raises `InvalidInput` where the picture's size is not known."""
        del questions
        look = sized(record, "coco")
        file = f"{_FOLDER}instances_{record.split}.json"
        image = {
            "id": record.number + 1,
            "file_name": record.picture.removeprefix("images/"),
            "width": look.width,
            "height": look.height,
        }
        pictures = Piece(file, (orjson.dumps(image),))
        annotations = tuple(self._annotations(record))
        return (pictures, Piece(file + _HALF, annotations)) if annotations else (pictures,)

    def finish(self, made: Made) -> Mapping[str, str]:
        """Put the files together; returns each split's."""
        categories = [{"id": number + 1, "name": storable(name)} for number, name in made.classes.items()]
        files = {split: f"{_FOLDER}instances_{split}.json" for split in made.splits}
        for file in files.values():
            half = made.folder / (file + _HALF)
            with (made.folder / file).open("ab") as whole:
                whole.write(b',\n"annotations": [\n')
                if half.exists():
                    with half.open("rb") as annotations:
                        shutil.copyfileobj(annotations, whole)
                    half.unlink()
                whole.write(b'\n],\n"categories": ' + orjson.dumps(categories) + b"}\n")
        return files

    def _annotations(self, record: Record) -> Iterator[bytes]:
        width, height = record.look.width, record.look.height
        for target in record.targets:
            x, y, across, down = _bbox(target.box, record.look)
            outlines = [
                [value for right, below in outline for value in (right * width, below * height)]
                for outline in (target.polygon, *target.more_outlines)
                if outline
            ]
            attributes = dict(target.attributes)
            annotation = {
                "image_id": record.number + 1,
                "category_id": target.class_id + 1,
                "bbox": [x, y, across, down],
                "area": across * down,
                "segmentation": outlines,
                "iscrowd": int(attributes.pop("iscrowd", 0) == 1),
            }
            if attributes:
                annotation["attributes"] = attributes
            yield orjson.dumps(annotation)[1:]  # the frame puts the id before it


def _bbox(box: Box, look: Look) -> Corners:
    """Left, top, width and height in pixels."""
    across, down = look.width, look.height

    def spelled(corners: Corners, digits: int) -> Corners:
        x1, y1, x2, y2 = corners
        left, top = x1 * across, y1 * down
        return (
            round(left, digits),
            round(top, digits),
            round(x2 * across - left, digits),
            round(y2 * down - top, digits),
        )

    def read(bbox: Corners) -> Corners:
        x, y, width, height = bbox
        return x / across, y / down, (x + width) / across, (y + height) / down

    return shortest(box, spelled, read, DIGITS)


def sized(record: Record, to: str) -> Look:
    """What is known of the picture, with its size in pixels. Raises `InvalidInput` where nobody looked."""
    if not record.look.width:
        what = f"`to: {to}` needs the size of {record.picture} in pixels, and nobody looked"
        raise InvalidInput("The labels cannot be written", [Complaint("check", what, "choose `check: header`")])
    return record.look
