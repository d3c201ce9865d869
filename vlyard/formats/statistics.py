"""What a grounding data set is like, in numbers: counted in every process that converts, and added up in one.

It knows no file format. Its size depends on the number of classes, and never on the number of pictures.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from vlyard.formats.box import Box
from vlyard.formats.record import Record

VERSION = 1
_MOST_CLASSES = 10_000  # that are counted by name; a set with more has no real classes

_DOUBLING = tuple(2.0**power for power in range(13))  # 1..4096
_RATIOS = (1 / 8, 1 / 4, 1 / 2, 2 / 3, 1, 3 / 2, 2, 4, 8)

# Where the bars of each histogram begin. A value on an edge belongs to the bar above it.
EDGES: Mapping[str, tuple[float, ...]] = {
    "boxes_per_picture": (1, 2, 3, 4, 5, 6, 8, 11, 16, 21, 51, 101, 201, 501),
    "box_side_pixels": _DOUBLING[1:],
    "box_side_thousandths": (1, 2, 5, 10, 20, 50, 100, 200, 500),
    "box_width_to_height": _RATIOS,
    "picture_width_to_height": _RATIOS,
    "picture_longer_side_pixels": (64, 128, 256, 512, 640, 800, 1024, 1280, 1600, 1920, 2560, 3840, 5120, 7680),
    "picture_megapixels": (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64),
    "answer_characters": (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768),
    "answer_tokens": (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
}
_OF_A_SPLIT = ("pictures", "pictures_without_objects", "samples", "objects")
_THIN = (1.0, 2.0, 5.0, 10.0)  # thousandths of the picture: a shorter side below these is coarse on Qwen3-VL's grid
_SIZES = (10.0, 32.0, 100.0)  # thousandths: where the size classes of the grid's cost begin
# A box in thousandths of its picture, exact and on the grid: x1, y1, x2, y2, left, top, right, bottom.
Gridded = tuple[float, float, float, float, int, int, int, int]
_SIZE_NAMES = ("under_10_thousandths", "10_to_32_thousandths", "32_to_100_thousandths", "100_thousandths_and_more")


@dataclass
class Tally:
    """Counts of records, of their boxes and of their answers. It can be pickled, and `+=` adds another one.

    A box's side is the square root of its area. Boxes are compared with what they are after Qwen3-VL's 0..1000 grid
    by intersection over union. Pixels are counted where the picture's size is known.
    """

    pictures: int = 0
    without_objects: int = 0
    boxes: int = 0
    points: int = 0
    answers: int = 0
    classes: Counter[str] = field(default_factory=Counter)  # boxes and points by label
    other_classes: int = 0  # objects of classes beyond the first `_MOST_CLASSES`
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    bars: dict[str, list[int]] = field(default_factory=lambda: {name: [0] * (len(EDGES[name]) + 1) for name in EDGES})
    largest: Counter[str] = field(default_factory=Counter)  # the largest value of some, and their sums
    sums: Counter[str] = field(default_factory=Counter)
    thin: list[int] = field(default_factory=lambda: [0] * (len(_THIN) + 1))
    collapsed: int = 0
    sized: list[int] = field(default_factory=lambda: [0] * len(_SIZE_NAMES))
    iou_sums: list[float] = field(default_factory=lambda: [0.0] * len(_SIZE_NAMES))
    iou_least: list[float] = field(default_factory=lambda: [1.0] * len(_SIZE_NAMES))

    def add(self, record: Record, answer_characters: Sequence[int], answer_tokens: Sequence[int] = ()) -> None:
        """Count a record, and the lengths of the answers that were made of it."""
        look = record.look
        self.add_pictures(record.split, [len(record.targets)], len(answer_characters))
        self.add_sizes([(look.width, look.height)])
        for target in record.targets:
            self.add_class(target.label, 1)
        self.add_boxes([_gridded(target.box) for target in record.targets], look.width, look.height)
        self.add_answers(answer_characters, answer_tokens)

    def add_pictures(self, split: str, objects: Sequence[int], answers: int) -> None:
        """Count pictures of a split by how many objects each shows, and what was answered about all of them."""
        counts = self.splits.setdefault(split, dict.fromkeys(_OF_A_SPLIT, 0))
        empty = objects.count(0)
        self.pictures += len(objects)
        self.without_objects += empty
        self.answers += answers
        for name, count in zip(_OF_A_SPLIT, (len(objects), empty, answers, sum(objects)), strict=True):
            counts[name] += count
        self._add_bars("boxes_per_picture", objects)
        self.largest["boxes_per_picture"] = max(self.largest["boxes_per_picture"], *objects)

    def add_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Count pictures by (width, height) in pixels; 0 where nobody looked."""
        for (width, height), count in Counter(sizes).items():
            if width and height:
                self._add_bars("picture_width_to_height", [width / height], count)
                self._add_bars("picture_longer_side_pixels", [max(width, height)], count)
                self._add_bars("picture_megapixels", [width * height / 1e6], count)

    def add_class(self, label: str, count: int) -> None:
        """Count objects of a class."""
        if label in self.classes or len(self.classes) < _MOST_CLASSES:
            self.classes[label] += count
        else:
            self.other_classes += count

    def add_answers(self, characters: Sequence[int], tokens: Sequence[int] = ()) -> None:
        """Count answers by their lengths; `tokens` is empty where nobody counted them."""
        for name, lengths in (("answer_characters", characters), ("answer_tokens", tokens)):
            if lengths:
                self._add_bars(name, lengths)
                self.sums[name] += sum(lengths)
                self.largest[name] = max(self.largest[name], *lengths)

    def _add_bars(self, name: str, values: Iterable[float], each: int = 1) -> None:
        bars, edges = self.bars[name], EDGES[name]
        for value in values:
            bars[bisect_right(edges, value)] += each

    def add_boxes(self, boxes: Sequence[Gridded], width: int, height: int) -> None:
        """Count the boxes of pictures of one size in pixels, which is 0 where nobody looked."""
        # The boxes are most of the work: plain floats here, which a test compares with `Box.iou`.
        thin, ious = self.thin, [list[float]() for _ in _SIZE_NAMES]
        thousandths, ratios = self.bars["box_side_thousandths"], self.bars["box_width_to_height"]
        pixels = self.bars["box_side_pixels"]
        scale, shape = sqrt(width * height) / 1000, (width / height if height else 0.0)
        without_area = 0
        for x1, y1, x2, y2, left, top, right, bottom in boxes:
            across, down = x2 - x1, y2 - y1
            area = across * down
            if area <= 0:
                without_area += 1
                continue
            side = sqrt(area)
            thousandths[bisect_right(_SIDES, side)] += 1
            if scale:
                pixels[bisect_right(_PIXELS, side * scale)] += 1
                ratios[bisect_right(_RATIOS, across / down * shape)] += 1
            shorter = across if across < down else down
            thin[bisect_right(_THIN, shorter)] += 1
            gridded = (right - left) * (bottom - top)
            iou = 0.0
            if gridded:
                shared = ((x2 if x2 < right else right) - (x1 if x1 > left else left)) * (
                    (y2 if y2 < bottom else bottom) - (y1 if y1 > top else top)
                )
                iou = shared / (area + gridded - shared)
            else:
                self.collapsed += 1
            ious[bisect_right(_SIZES, side)].append(iou)
        for size, found in enumerate(ious):
            self.sized[size] += len(found)
            self.iou_sums[size] += sum(found)
            self.iou_least[size] = min(self.iou_least[size], *found, 1.0)
        self.points += without_area
        self.boxes += len(boxes) - without_area

    def __iadd__(self, other: "Tally") -> "Tally":
        for name in ("pictures", "without_objects", "boxes", "points", "answers", "other_classes", "collapsed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for label, count in other.classes.items():
            self.add_class(label, count)
        for split, counts in other.splits.items():
            mine = self.splits.get(split, {})
            self.splits[split] = {name: mine.get(name, 0) + count for name, count in counts.items()}
        for name, bars in other.bars.items():
            self.bars[name] = _added(self.bars[name], bars)
        self.largest |= other.largest
        self.sums += other.sums
        self.thin, self.sized = _added(self.thin, other.thin), _added(self.sized, other.sized)
        self.iou_sums = [a + b for a, b in zip(self.iou_sums, other.iou_sums, strict=True)]
        self.iou_least = [min(pair) for pair in zip(self.iou_least, other.iou_least, strict=True)]
        return self

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON can say it: the content of `statistics.json`, where every key names its unit."""
        splits = {name: self.splits[name] for name in sorted(self.splits, key=_in_order)}
        return {
            "version": VERSION,
            "pictures": self.pictures,
            "pictures_without_objects": self.without_objects,
            "samples": self.answers,
            "boxes": self.boxes,
            "points": self.points,
            "boxes_per_class": dict(sorted(self.classes.items(), key=lambda pair: (-pair[1], pair[0]))),
            "boxes_of_further_classes": self.other_classes,
            "splits": splits,
            "most_boxes_of_a_picture": self.largest["boxes_per_picture"],
            "answer_lengths": self._answers(),
            "grid": self._grid(),
            "histograms": {name: _as_bars(EDGES[name], counts) for name, counts in self.bars.items() if any(counts)},
        }

    def _answers(self) -> dict[str, float]:
        lengths: dict[str, float] = {}
        for name in ("answer_characters", "answer_tokens"):
            if count := sum(self.bars[name]):
                unit = name.removeprefix("answer_")
                lengths |= {f"mean_{unit}": self.sums[name] / count, f"most_{unit}": self.largest[name]}
        return lengths

    def _grid(self) -> dict[str, Any]:
        """What the 0..1000 grid costs."""
        under = {f"{limit:g}": sum(self.thin[: place + 1]) for place, limit in enumerate(_THIN)}
        by_size = {
            name: {"boxes": count, "mean_iou": self.iou_sums[place] / count, "least_iou": self.iou_least[place]}
            for place, (name, count) in enumerate(zip(_SIZE_NAMES, self.sized, strict=True))
            if count
        }
        return {
            "boxes_with_a_side_under_thousandths": under,
            "boxes_without_area_on_the_grid": self.collapsed,
            "mean_iou": sum(self.iou_sums) / self.boxes if self.boxes else None,
            "least_iou": min(self.iou_least) if self.boxes else None,
            "by_side": by_size,
        }


_SIDES, _PIXELS = EDGES["box_side_thousandths"], EDGES["box_side_pixels"]


def _gridded(box: Box) -> Gridded:
    x1, y1, x2, y2 = box.x1 * 1000, box.y1 * 1000, box.x2 * 1000, box.y2 * 1000
    return x1, y1, x2, y2, round(x1), round(y1), round(x2), round(y2)


def _in_order(split: str) -> tuple[bool, bool, str]:
    return split != "train", split == "test", split


def _added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _as_bars(edges: Sequence[float], counts: Sequence[int]) -> list[dict[str, float | None]]:
    """From the first bar that counts something to the last one."""
    whole = [
        {"from": low, "below": high, "count": count}
        for low, high, count in zip((None, *edges), (*edges, None), counts, strict=True)
    ]
    full = [place for place, count in enumerate(counts) if count]
    return whole[full[0] : full[-1] + 1]
