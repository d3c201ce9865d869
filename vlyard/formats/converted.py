"""Reading back what a conversion wrote: its report, its statistics and its samples, from a folder or a zip.

Everything that grows with the set is streamed: rows and samples are never all in memory.
"""

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ijson  # type: ignore[import-untyped]
import orjson
from PIL import Image

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.answer import parse_answer
from vlyard.formats.box import Box
from vlyard.formats.picture import open_picture
from vlyard.formats.report import VERSION

REPORT, STATISTICS = "report.json", "statistics.json"
_FORMS = (".json", ".jsonl")
_POINT = 4  # thousandths on each side of a point, so that it can be drawn
_CONVERT_AGAIN = "convert the data set again"


@dataclass(frozen=True)
class Sample:
    """One question about a picture, and the answer that a model is trained to give."""

    data_set: str
    number: int  # in its data set, from 1
    picture: str
    question: str
    answer: str

    def boxes(self) -> Sequence[tuple[Box, str]]:
        """The answer's boxes with their labels; a point is a small box around it."""
        found = [(each.box, each.label) for each in parse_answer(self.answer).boxed]
        return found or list(_points(self.answer))


@dataclass(frozen=True)
class ConvertedSet:
    """A folder, or a zip of one, that a conversion wrote."""

    root: Path | zipfile.Path
    head: Mapping[str, Any]  # the report without its rows

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row of the report, in its order."""
        with self._open(REPORT) as file:
            yield from _told(REPORT, ijson.items(file, "rows.item", use_float=True))

    def statistics(self) -> dict[str, Any] | None:
        """What `statistics.json` holds; None where there is none."""
        if not self.root.joinpath(STATISTICS).is_file():
            return None
        try:
            return cast(dict[str, Any], orjson.loads(self.root.joinpath(STATISTICS).read_bytes()))
        except ValueError as error:
            raise _unusable(STATISTICS, f"it is not JSON: {error}") from error

    def faults(self, places: int = 3) -> dict[str, list[dict[str, Any]]]:
        """By code, the first rows that have it; reads no further than it must."""
        counts: Mapping[str, int] = self.head["totals"]["faults"]
        found: dict[str, list[dict[str, Any]]] = {code: [] for code in counts}
        missing = {code: min(count, places) for code, count in counts.items()}
        for row in self.rows() if missing else ():
            for code in set(row["codes"]) & missing.keys():
                found[code].append(row)
                missing[code] -= 1
                if missing[code] == 0:
                    del missing[code]
            if not missing:
                break
        return found

    def samples(self, data_set: str | None = None) -> Iterator[Sample]:
        """Every sample of one data set, or of all in the report's order; none where a label format was written."""
        for name in self.head["data_sets"] if data_set is None else [data_set]:
            file = next((name + form for form in _FORMS if self.root.joinpath(name + form).is_file()), None)
            if file is None:
                continue
            with self._open(file) as content:
                entries = _told(file, ijson.items(content, "item" if file.endswith(".json") else "", **_OPTIONS))
                for number, entry in enumerate(entries, 1):
                    yield _sample(name, number, entry, file)

    def picture(self, sample: Sample) -> Image.Image:
        """The sample's picture as displayed. Raises `UnreadablePicture`."""
        place = self.root.joinpath(sample.picture)
        if isinstance(place, Path):
            return open_picture(place, name=sample.picture)
        if sample.picture.startswith("/"):  # the samples name the source's own pictures
            return open_picture(Path(sample.picture))
        return open_picture(place.read_bytes() if place.is_file() else b"", name=sample.picture)

    def _open(self, name: str) -> Any:
        return self.root.joinpath(name).open("rb")


_OPTIONS: Mapping[str, Any] = {"use_float": True, "multiple_values": True}


def open_converted(path: Path) -> ConvertedSet:
    """The converted set in that folder or zip. Raises `InvalidInput` where it is none, or of another version."""
    root = _root(path)
    if root is None:
        what, fix = (
            f"there is no {REPORT} in it",
            "give the folder or the zip that `vlyard convert` or a conversion made",
        )
        raise InvalidInput("This is no converted data set", [Complaint(str(path), what, fix)])
    with root.joinpath(REPORT).open("rb") as file:
        builder = ijson.ObjectBuilder()
        for prefix, event, value in _told(REPORT, ijson.parse(file, use_float=True)):
            if prefix == "" and event == "map_key" and value == "rows":
                break
            builder.event(event, value)
    head = getattr(builder, "value", None)
    if not isinstance(head, dict) or head.get("version") != VERSION:
        found = head.get("version") if isinstance(head, dict) else None
        raise _unusable(REPORT, f"it is a report of version {found}, and {VERSION} is read")
    return ConvertedSet(root, head)


def _root(path: Path) -> Path | zipfile.Path | None:
    """The folder with the report: the one given, or the only one in it."""
    top: Path | zipfile.Path
    if path.is_dir():
        top = path
    elif zipfile.is_zipfile(path):
        top = zipfile.Path(path)
    else:
        return None
    inside = [each for each in top.iterdir() if each.is_dir()] if not top.joinpath(REPORT).is_file() else []
    candidates = [top, *inside[:1]] if len(inside) == 1 else [top]
    return next((each for each in candidates if each.joinpath(REPORT).is_file()), None)


def _told(file: str, values: Iterator[Any]) -> Iterator[Any]:
    """The same, with damage told as ours."""
    try:
        yield from values
    except (ijson.JSONError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise _unusable(file, f"it is not whole: {error}") from error


def _sample(data_set: str, number: int, entry: Any, file: str) -> Sample:
    try:
        turns = entry.get("messages") or entry["conversations"]
        question, answer = (_text(turn.get("content", turn.get("value"))) for turn in turns[-2:])
        picture = entry["images"][0] if "images" in entry else entry["image"]
        if "objects" in entry:
            answer = _filled(answer, entry["objects"])
        return Sample(data_set, number, str(picture), question.removeprefix("<image>\n"), answer)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _unusable(f"{file}: sample {number}", "it is in no form that conversions write") from error


def _text(content: Any) -> str:
    """A turn's words; its parts together where it comes in parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _filled(answer: str, objects: Mapping[str, Any]) -> str:
    """An answer of ms-swift, with boxes and names in their places."""
    boxes = (str([round(value * 1000) for value in box]) for box in objects["bbox"])
    values = {"<bbox>": boxes, "<ref-object>": iter(objects["ref"])}
    return re.sub("<bbox>|<ref-object>", lambda found: next(values[found[0]], found[0]), answer)


def _points(answer: str) -> Iterator[tuple[Box, str]]:
    try:
        value = orjson.loads(answer)
    except ValueError:
        return
    listed = value.get("objects") if isinstance(value, dict) else value
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict) and len(point := entry.get("point_2d", ())) == 2:
            x, y = point
            box = Box.from_thousand((x - _POINT, y - _POINT, x + _POINT, y + _POINT)).clamped()
            yield box, str(entry.get("label", ""))


def _unusable(where: str, what: str) -> InvalidInput:
    return InvalidInput("The converted data set cannot be read", [Complaint(where, what, _CONVERT_AGAIN)])
