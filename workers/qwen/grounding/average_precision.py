"""COCO's average precision, by pycocotools. It knows what is there and what was found, and no model.

As COCO has it: precision is interpolated at 101 recalls, of each picture the 100 surest boxes of a class count, boxes
are matched greedily, the surest first, and the mean is over classes of the truth. A label that the truth does not
have is no class here; precision counts its boxes as wrong.

Where boxes are equally sure, COCO's ranking is that of the pictures' numbers, and the figure depends on their order:
by a tenth and more where all are. So pictures are numbered here by a digest of what is in them: arbitrary, and always
the same. The IoU of boxes is the same in thousandths as in pixels, so that no picture's size is needed.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from workers.qwen.grounding.objects import Thing, ordered
from workers.qwen.grounding.scoring import Judged

_MOST_BOXES = 100  # of a class in a picture
_ALL_AREAS = [0, 1e10]
_DIGITS = 12  # COCO adds an epsilon to what it divides by, and 1 would be 0.9999999999999999
_ANY = "object"  # the class of everything, where labels do not count


@dataclass(frozen=True)
class Precisions:
    """Average precision at an IoU of 0.5, and the mean over 0.5, 0.55 to 0.95; None where the truth has no object."""

    at_50: float | None = None
    at_50_95: float | None = None
    classes: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # the same two of each


def average_precision(judged: Sequence[Judged], *, ignore_labels: bool = False) -> Precisions:
    """Of all questions, each of which counts as a picture; where labels are ignored there is no figure of a class."""
    labels = sorted({_class(thing, ignore_labels) for each in judged for thing in each.truth})
    if not labels:
        return Precisions()
    table = _table(sorted(judged, key=_digest), labels, ignore_labels)
    by_class = {} if ignore_labels else dict(zip(labels, map(_two, table), strict=True))
    at_50, at_50_95 = _two(table.mean(axis=0))
    return Precisions(at_50, at_50_95, by_class)


def _two(at_ious: NDArray[numpy.float64]) -> tuple[float, float]:
    """At an IoU of 0.5, and the mean over all ten."""
    return round(float(at_ious[0]), _DIGITS), round(float(at_ious.mean()), _DIGITS)


def _table(judged: Sequence[Judged], labels: Sequence[str], ignore_labels: bool) -> NDArray[numpy.float64]:
    """The average precision of each class at each of COCO's ten IoUs, (classes, 10)."""
    with redirect_stdout(io.StringIO()):  # pycocotools prints
        truth, found = (
            _index(len(judged), labels, _boxes(judged, labels, side, ignore_labels)) for side in ("truth", "found")
        )
        coco = COCOeval(truth, found, "bbox")
        coco.params.areaRng, coco.params.areaRngLbl = [_ALL_AREAS], ["all"]
        coco.params.maxDets = [_MOST_BOXES]
        coco.evaluate()
        coco.accumulate()
    precision = coco.eval["precision"][:, :, :, 0, 0]  # (IoUs, 101 recalls, classes)
    averages: NDArray[numpy.float64] = precision.mean(axis=1).T
    return averages


def _index(pictures: int, labels: Sequence[str], boxes: Iterator[dict[str, Any]]) -> COCO:
    """COCO counts from 1: in its matches, 0 is nothing."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, pictures + 1)],
        "categories": [{"id": number, "name": label} for number, label in enumerate(labels, 1)],
        "annotations": [{**box, "id": number} for number, box in enumerate(boxes, 1)],
    }
    coco.createIndex()
    return coco


def _boxes(judged: Sequence[Judged], labels: Sequence[str], side: str, ignore_labels: bool) -> Iterator[dict[str, Any]]:
    numbers = {label: number for number, label in enumerate(labels, 1)}
    for picture, each in enumerate(judged, 1):
        for thing in ordered(getattr(each, side)):
            if (number := numbers.get(_class(thing, ignore_labels))) is None:
                continue
            left, top, right, bottom = thing.corners
            width, height = right - left, bottom - top
            yield {
                "image_id": picture,
                "category_id": number,
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
                "score": thing.confidence,
            }


def _class(thing: Thing, ignore_labels: bool) -> str:
    return _ANY if ignore_labels else thing.label


def _digest(judged: Judged) -> bytes:
    return hashlib.blake2b(repr((ordered(judged.truth), ordered(judged.found))).encode("utf-8", "replace")).digest()
