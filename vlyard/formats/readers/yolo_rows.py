"""Reading one YOLO label file: boxes, polygons, corners and poses, a row each. It knows no folders.

A row is a class and then `centre_x centre_y width height`, or the corners of a polygon or of a turned box
(`x1 y1 x2 y2 …`), or a box and its keypoints, in 0..1 of the displayed picture: the forms of Ultralytics' documentation
of datasets. Files whose every row is a faultless box take a short cut, which must give what the long way gives.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TextIO

from vlyard.formats import faults
from vlyard.formats.box import Box
from vlyard.formats.classes import Classes
from vlyard.formats.faults import Finding
from vlyard.formats.reading import Draft, Place, Reading, Refused
from vlyard.formats.record import Corner, Keypoint, Look, Target

LINE_LIMIT = 65_536  # characters
Coordinates = Literal["relative", "pixels-cxcywh", "pixels-xywh", "pixels-xyxy"]
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_BOX_FIELDS = ("centre x", "centre y", "width", "height")
_PIXEL_FIELDS = {
    "pixels-cxcywh": _BOX_FIELDS,
    "pixels-xywh": ("left", "top", "width", "height"),
    "pixels-xyxy": ("left", "top", "right", "bottom"),
}
_NOISE = 1e-6  # as in `reading`: the rounding of six written digits
_EDGE = 1 + _NOISE
_LARGEST_ID = 10**15  # from here on a decimal does not say which integer it is
_OF_NUMBERS, _SHAPE = b"0123456789.+-eE", b"    \n"  # the characters of numbers, and what they leave of a box's row
_SLACK = 0.01  # how far a keypoint may lie outside its box, which is drawn by hand


@dataclass(frozen=True)
class Rows:
    """What is known of all rows of a set before they are read."""

    classes: Classes
    confidence: Literal["last", "second"] = "last"  # where rows of six fields have theirs
    keypoints: tuple[int, int] | None = None  # how many a row has, and numbers for each: data.yaml's kpt_shape
    keypoint_names: tuple[str, ...] = ()
    coordinates: Coordinates = "relative"
    outlines: bool = False  # whether whoever converts said that no row has keypoints

    def read(self, path: str, name: str, look: Look, reading: Reading) -> None:
        """Give every row of the file to `reading`; `name` is what the report calls the file."""
        try:
            if self.coordinates == "relative" and self._short_cut(path, reading):
                return
            with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a Path costs as much as a row
                self._long_way(file, name, look, reading)
        except OSError as damage:
            finding = faults.UNREADABLE_LABEL.found(damage=damage.strerror or damage)
            reading.refuse(Place(name), finding, annotations=0)

    def _short_cut(self, path: str, reading: Reading) -> bool:
        """Read a file whose every row is a faultless box; False, and nothing done, where it is not one."""
        rows = plain_rows(path)
        if rows is None:
            return False
        known = [self.class_of(written) for written in rows.ids]
        if None in known:
            return False
        if rows.carriage_returns:
            reading.spelling["files_with_carriage_returns"] = 1
        if rows.blank_lines:
            reading.spelling["blank_lines"] = rows.blank_lines
        reading.targets += [
            Target(*each, Box.judged(*corners)) for each, corners in zip(known, rows.corners, strict=True) if each
        ]
        reading.kept += len(known)
        return True

    def class_of(self, written: bytes) -> tuple[int, str] | None:
        """The id and the name of a class as a row says it; None where it is no integer that has a name."""
        try:
            number = int(written)
        except ValueError:
            return None
        label = self.classes.label(number) if number < _LARGEST_ID else None
        return None if label is None else (number, label)

    def _long_way(self, file: TextIO, name: str, look: Look, reading: Reading) -> None:
        forms = set()
        for number, text in _lines(file, reading.spelling):
            place = Place(name, number)
            try:
                draft, form = self._draft(text, look)
            except Refused as refused:
                reading.refuse(place, refused.finding)
                continue
            forms.add(form)
            reading.accept(place, draft)
        if file.newlines and file.newlines != "\n":
            reading.spelling["files_with_carriage_returns"] = 1
        if {"box", "polygon"} <= forms:
            reading.note(Place(name), faults.MIXED_ROWS.found())

    def _draft(self, text: str, look: Look) -> tuple[Draft, str]:
        """What a row says, and which form it has. Raises `Refused`."""
        if len(text) > LINE_LIMIT:
            raise Refused(faults.LINE_TOO_LONG.found(limit=LINE_LIMIT))
        fields, findings = _fields(text)
        count = len(fields)
        if count < 5:
            raise Refused(faults.WRONG_FIELD_COUNT.found(count=count))
        class_id, label, more = self._class(fields[0])
        findings += more
        pose = 0 if self.keypoints is None else self.keypoints[0] * self.keypoints[1]
        values: Sequence[str] = fields[1:]
        confidence = None
        if not (pose or self.outlines) and self.coordinates == "relative" and is_pose(values, 3):
            raise Refused(faults.POSE_UNDECLARED.found())
        # One field too many for every form of row is a confidence.
        if (pose and count == 6 + pose) or (not (pose and count == 5 + pose) and count % 2 == 0):
            values, confidence = self._without_confidence(values)
            findings.append(faults.CONFIDENCE.found(value=_quoted(repr(confidence)), place=self.confidence))
        attributes = {} if confidence is None else {"confidence": confidence}
        if pose and len(values) == 4 + pose:
            corners = self._box(values[:4], look)
            points, more = self._keypoints(values[4:], look)
            draft = Draft(class_id, label, corners, (*findings, *more), keypoints=points, attributes=attributes)
            return draft, "pose"
        if len(values) == 4:
            corners = self._box(values, look)
            return Draft(class_id, label, corners, tuple(findings), attributes=attributes), "box"
        polygon = self._polygon(values, look)
        xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
        corners = (min(xs), min(ys), max(xs), max(ys))
        inside = tuple((min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)) for x, y in polygon)
        draft = Draft(
            class_id, label, corners, tuple(findings), inside, attributes=attributes, key=(class_id, *polygon)
        )
        return draft, "polygon"

    def _class(self, written: str) -> tuple[int, str, list[Finding]]:
        findings = []
        if _INTEGER.fullmatch(written):
            class_id = int(written)
        elif _DECIMAL.fullmatch(written) and float(written).is_integer() and abs(float(written)) < 1e15:
            class_id = int(float(written))
            findings.append(faults.CLASS_AS_DECIMAL.found(value=_quoted(written), id=class_id))
        else:
            ids = [number for number, name in (self.classes.names or {}).items() if name == written]
            if len(ids) != 1:
                raise Refused(faults.CLASS_NOT_INTEGER.found(value=_quoted(written)))
            class_id = ids[0]
            findings.append(faults.CLASS_AS_NAME.found(value=_quoted(written), id=class_id))
        label = self.classes.label(class_id)
        if label is None:
            raise Refused(faults.CLASS_OUT_OF_RANGE.found(value=class_id, known=self.classes.known))
        return class_id, label, findings

    def _without_confidence(self, values: Sequence[str]) -> tuple[Sequence[str], float]:
        place = len(values) - 1 if self.confidence == "last" else 0
        written = values[place]
        if not (_DECIMAL.fullmatch(written) and 0 <= float(written) <= 1):
            raise Refused(faults.WRONG_FIELD_COUNT.found(count=len(values) + 1))
        return (*values[:place], *values[place + 1 :]), float(written)

    def _box(self, values: Sequence[str], look: Look) -> tuple[float, float, float, float]:
        """The corners of four numbers, relative."""
        if self.coordinates != "relative":
            return self._box_of_pixels(values, look)
        x, y, width, height = numbers = _numbers(values, _BOX_FIELDS)
        if min(numbers) >= 0 and max(numbers) > 2 and sum(number > 1.5 for number in numbers) >= 2:
            raise Refused(faults.PIXELS.found(values=" ".join(values)))
        if width <= 0 or height <= 0:
            raise Refused(faults.NO_AREA.found(width=width, height=height))
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def _box_of_pixels(self, values: Sequence[str], look: Look) -> tuple[float, float, float, float]:
        a, b, c, d = numbers = _numbers(values, _PIXEL_FIELDS[self.coordinates])
        across, down = _size(look)
        if max(map(abs, numbers)) <= 1:
            raise Refused(faults.NOT_PIXELS.found(values=" ".join(values)))
        if self.coordinates == "pixels-xyxy":
            return a / across, b / down, c / across, d / down
        if c <= 0 or d <= 0:
            raise Refused(faults.NO_AREA.found(width=c, height=d))
        if self.coordinates == "pixels-xywh":
            return a / across, b / down, (a + c) / across, (b + d) / down
        return (a - c / 2) / across, (b - d / 2) / down, (a + c / 2) / across, (b + d / 2) / down

    def _polygon(self, values: Sequence[str], look: Look) -> tuple[Corner, ...]:
        names = [f"{axis} of point {place // 2 + 1}" for place, axis in enumerate("xy" * (len(values) // 2))]
        numbers = _numbers(values, names)
        across, down = (1, 1) if self.coordinates == "relative" else _size(look)
        if self.coordinates == "relative" and sum(number > 2 for number in numbers) > len(numbers) / 2:
            raise Refused(faults.PIXELS.found(values=" ".join(values[:4]) + " …"))
        return tuple((x / across, y / down) for x, y in zip(numbers[::2], numbers[1::2], strict=True))

    def _keypoints(self, values: Sequence[str], look: Look) -> tuple[tuple[Keypoint, ...], list[Finding]]:
        assert self.keypoints is not None
        count, numbers_each = self.keypoints
        across, down = (1, 1) if self.coordinates == "relative" else _size(look)
        points: list[Keypoint] = []
        findings: list[Finding] = []
        for place in range(count):
            name = self.keypoint_names[place] if place < len(self.keypoint_names) else f"point_{place}"
            names = [f"{part} of keypoint {name}" for part in ("x", "y", "visibility")[:numbers_each]]
            x, y, *seen = _numbers(values[place * numbers_each : (place + 1) * numbers_each], names)
            if seen and seen[0] == 0:
                continue  # COCO's v = 0: the point is not labelled, and its place says nothing
            x, y = x / across, y / down
            if not (-0.01 <= x <= 1.01 and -0.01 <= y <= 1.01):
                findings.append(faults.KEYPOINT_OUTSIDE.found(name=name))
                continue
            points.append(Keypoint(min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0), name, not seen or seen[0] != 1))
        return tuple(points), findings


def is_pose(values: Sequence[str], numbers_each: int) -> bool:
    """Whether the numbers behind a row's class are a box inside the picture and at least one point that it holds.

    A point's third number says how visible it is: 0, 1 or 2.
    """
    if len(values) <= 4 or (len(values) - 4) % numbers_each or not all(map(_DECIMAL.fullmatch, values)):
        return False
    x, y, width, height, *rest = map(float, values)
    across, down, seen = rest[::numbers_each], rest[1::numbers_each], rest[2::3] if numbers_each == 3 else ()
    if not {*seen} <= {0, 1, 2} or min(width, height) <= 0:
        return False
    if max(abs(2 * x - 1) + width, abs(2 * y - 1) + height) > 1 + _SLACK:
        return False
    points = [(a, b) for place, (a, b) in enumerate(zip(across, down, strict=True)) if not seen or seen[place]]
    return all(abs(a - x) <= width / 2 + _SLACK and abs(b - y) <= height / 2 + _SLACK for a, b in points)


def count_rows(path: str) -> int:
    """How many lines of a label file are not blank; 0 where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return sum(1 for _ in _lines(file, {}))
    except OSError:
        return 0


def looks_like_rows(path: str) -> bool:
    """Whether the first line that is not blank begins like a label: an empty file does, a letter to the reader not."""
    row = next(first_rows(path), None)
    return row is not None and (not row or (len(row) >= 5 and all(map(_DECIMAL.fullmatch, row[:5]))))


def first_rows(path: str, most: int = 1) -> Iterator[Sequence[str]]:
    """The fields of the first lines that are not blank; one empty row for a file without any, none where unreadable."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            found = False
            for (_, text), _ in zip(_lines(file, {}), range(most), strict=False):
                found = True
                yield _fields(text)[0]
            if not found:
                yield ()
    except OSError:
        return


Corners = tuple[float, float, float, float]


class PlainRows(NamedTuple):
    """What a label file says whose every row is a class and a faultless box."""

    ids: Sequence[bytes]  # of the classes, as they are written; nobody has looked whether there are such
    corners: Sequence[Corners]  # x1, y1, x2, y2 in 0..1, of boxes with an area, all distinct
    blank_lines: int = 0
    carriage_returns: bool = False


def plain_rows(path: str) -> PlainRows | None:
    """Read a label file; None where anything in it is unusual, so that somebody must look more closely.

    Raises `OSError`. All rows are read at once, in half the time that they take one by one.
    """
    data = _whole(path)
    # A lone carriage return ends a line elsewhere.
    if data is None or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n")):
        return None
    try:
        if _has_shape(data):
            return PlainRows(*_plain(data))
        lines = [b" ".join(line.split()) for line in data.removesuffix(b"\n").split(b"\n")]
        rows = b"".join(line + b"\n" for line in lines if line)
        if not _has_shape(rows):
            return None
        return PlainRows(*_plain(rows), lines.count(b"") if data else 0, b"\r" in data)
    except ValueError:
        return None


def _plain(rows: bytes) -> tuple[list[bytes], list[Corners]]:
    """What rows of that shape say. Raises `ValueError` where anything is unusual."""
    # In a row with four spaces are five fields at most; so all have five where there are five times as many as rows.
    fields = rows.split()
    ids = fields[::5]
    del fields[::5]
    numbers = map(float, fields)
    corners = [
        (x - across / 2, y - down / 2, x + across / 2, y + down / 2)
        for x, y, across, down in zip(numbers, numbers, numbers, numbers, strict=True)
    ]
    for place, (x1, y1, x2, y2) in enumerate(corners):
        if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):  # what is not a number fails comparisons, too
            corners[place] = _inside(x1, y1, x2, y2)
    if not len(set(corners)) == len(ids) == rows.count(b"\n"):
        raise ValueError(rows)
    return ids, corners


def _inside(x1: float, y1: float, x2: float, y2: float) -> Corners:
    within = -_NOISE <= x1 < x2 <= _EDGE and -_NOISE <= y1 < y2 <= _EDGE
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)
    if not within or left >= right or top >= bottom:
        raise ValueError(x1, y1, x2, y2)
    return left, top, right, bottom


def _has_shape(rows: bytes) -> bool:
    """Whether each row is as many numbers as a class and a box are, or fewer, with one space between."""
    return rows.translate(None, _OF_NUMBERS) == _SHAPE * rows.count(b"\n")


def _whole(path: str) -> bytes | None:
    """The file's bytes; None where it is longer than one read, so that some line may be too long."""
    file = os.open(path, os.O_RDONLY)  # a third of what open() costs, for files of a hundred bytes
    try:
        data = os.read(file, LINE_LIMIT)
    finally:
        os.close(file)
    return data if len(data) < LINE_LIMIT else None


def _lines(file: TextIO, spelling: dict[str, int]) -> Iterator[tuple[int, str]]:
    number = 0
    while text := file.readline(LINE_LIMIT + 1):
        number += 1
        if number == 1 and text.startswith("\ufeff"):
            spelling["files_with_byte_order_mark"] = 1
            text = text[1:]
        while len(text) > LINE_LIMIT and not text.endswith("\n"):
            rest = file.readline(LINE_LIMIT)
            if not rest or rest.endswith("\n"):
                break
        if text.strip():
            yield number, text
        else:
            spelling["blank_lines"] = spelling.get("blank_lines", 0) + 1


def _fields(text: str) -> tuple[list[str], list[Finding]]:
    """The row's fields, and what was odd about how they are divided."""
    fields = text.split()
    findings: list[Finding] = []
    if "," not in text and ";" not in text:
        return fields, findings
    mark = ";" if ";" in text else ","
    divided = [part.strip() for part in text.strip().rstrip(mark).split(mark)]
    # `0 0,5 0,5 0,2 0,2` has commas in its numbers; `0,0.5,0.5,0.2,0.2` and `0, 0.5, …` between them.
    in_numbers = mark == "," and len(fields) >= 5 and all("," not in f or _DECIMAL_COMMA.fullmatch(f) for f in fields)
    if not in_numbers and len(divided) >= 5:
        fields = divided
        findings.append(faults.SEPARATED.found(mark=mark))
    if any(map(_DECIMAL_COMMA.fullmatch, fields)):
        fields = [f.replace(",", ".") if _DECIMAL_COMMA.fullmatch(f) else f for f in fields]
        findings.append(faults.DECIMAL_COMMA.found())
    return fields, findings


def _numbers(values: Sequence[str], names: Sequence[str]) -> list[float]:
    for name, written in zip(names, values, strict=True):
        if _SPECIAL.fullmatch(written) or (_DECIMAL.fullmatch(written) and not math.isfinite(float(written))):
            raise Refused(faults.NOT_FINITE.found(field=name, value=_quoted(written)))
        if not _DECIMAL.fullmatch(written):
            raise Refused(faults.NOT_A_NUMBER.found(field=name, value=_quoted(written)))
    return list(map(float, values))


def _size(look: Look) -> tuple[int, int]:
    if not look.width:
        raise Refused(faults.SIZE_UNKNOWN.found())
    return look.width, look.height


def _quoted(written: str) -> str:
    return repr(written if len(written) <= 40 else written[:39] + "…")
