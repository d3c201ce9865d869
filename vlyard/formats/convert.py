"""From a folder of YOLO labels to a Qwen3-VL grounding data set: the one way, for the job and for the command line.

The stages: recognise the layout; pair pictures with labels; read and judge each line; check, copy or turn each
picture; write its sample. Pictures go through one at a time, and the same input gives the same bytes.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vlyard.errors import Complaint, InvalidInput, UnreadablePicture
from vlyard.formats import faults
from vlyard.formats.archive import unpack
from vlyard.formats.box import Box
from vlyard.formats.drawing import contact_sheet
from vlyard.formats.entries import Entry, Stray, entries
from vlyard.formats.faults import Policy
from vlyard.formats.layouts import Dataset, recognise
from vlyard.formats.picture import DEFAULT_MAX_PIXELS, Picture, read_picture, write_upright
from vlyard.formats.report import VERSION, Account, write_report
from vlyard.formats.sharegpt import SharegptWriter, check_prompt
from vlyard.formats.tree import Tree
from vlyard.formats.yolo import Found, LabelFile, count_lines
from vlyard.jobs.conversion import NAME_PATTERN

REPORT, CONTACT_SHEET = "report.json", "contact_sheet.png"
_ON_THE_SHEET = 12
_SHEET_PICTURE = 640  # the longer side that a picture for the sheet is kept at, in pixels


@dataclass(frozen=True)
class Options:
    """How to convert; the defaults and the meaning are those of `ConversionSpec`."""

    name: str
    prompt: str
    policy: Policy
    keep_empty: bool
    max_pixels: int = DEFAULT_MAX_PIXELS


@dataclass(frozen=True)
class ConversionReport:
    """What came out of a conversion: the head of `report.json`."""

    layout: str
    evidence: tuple[str, ...]
    classes: tuple[str, ...]  # by id; in a set without names those that were met
    samples: int
    boxes: int
    totals: dict[str, Any]
    data_sets: dict[str, dict[str, Any]]


def convert(
    source: Path, output: Path, options: Options, progress: Callable[[float | None, str], object]
) -> ConversionReport:
    """Convert a folder or an archive; `output` becomes the data set's folder, and exists only after success.

    `progress` is called with a fraction of 1 and a text every now and then; what it raises ends the conversion.
    Raises `InvalidInput` where the source is not there, holds no usable sample, or has a fault under the policy
    `strict`; where the output folder is not empty or lies in the source; `RefusedArchive` for an unsafe archive.
    """
    check_prompt(options.prompt)
    _check_name(options.name)
    source, output = source.resolve(), output.absolute()
    _check_places(source, output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        if source.is_file():
            progress(None, "unpacking")
            unpack(source, Path(scratch) / "source")
            source = Path(scratch) / "source"
        report = _Conversion(recognise(Tree(source)), made, options, Path(scratch) / "rows").run(progress)
        if output.exists():
            output.rmdir()
        made.rename(output)
    return report


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        complaint = Complaint("name", f"{name!r} cannot be a file's name here", f"it must match {NAME_PATTERN}")
        raise InvalidInput("The name cannot be used", [complaint])


def _check_places(source: Path, output: Path) -> None:
    if not source.exists():
        raise InvalidInput("Nothing can be converted", [Complaint(str(source), "there is no such folder or archive")])
    if output.resolve().is_relative_to(source):
        complaint = Complaint(str(output), "the output would lie inside the source", "choose a folder elsewhere")
        raise InvalidInput("The output cannot be written", [complaint])
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        complaint = Complaint(str(output), "it exists and is not an empty folder", "choose a new folder")
        raise InvalidInput("The output cannot be written", [complaint])


class _Conversion:
    """One run over one data set."""

    def __init__(self, dataset: Dataset, folder: Path, options: Options, rows: Path) -> None:
        self.dataset, self.folder, self.options = dataset, folder, options
        self.account = Account(rows, options.policy)
        self.writer = SharegptWriter(folder, options.name, options.prompt, dataset.splits[0].name)
        self.sheet: list[tuple[Image.Image, list[tuple[Box, str]]]] = []

    def run(self, progress: Callable[[float | None, str], object]) -> ConversionReport:
        expected = sum(1 for _ in self.dataset.tree.pictures())
        every = max(1, min(50, expected // 100))
        done = 0
        with self.account, self.writer:
            for entry in entries(self.dataset):
                if isinstance(entry, Stray):
                    self._stray(entry)
                    continue
                if done % every == 0:
                    progress(min(done / expected, 1.0), f"{done} of {expected} pictures")
                self._entry(entry)
                done += 1
            self._refuse_nothing()
        progress(1.0, f"{done} of {expected} pictures")
        return self._finish()

    def _stray(self, stray: Stray) -> None:
        lines = count_lines(stray.label) if stray.label else 0
        self.account.whole(stray.where, stray.finding, line=stray.line, lines=lines)
        self.account.pictures["refused"] += stray.picture

    def _entry(self, entry: Entry) -> None:
        name = self.dataset.tree.name(entry.picture)
        picture = self._read(entry, name)
        if picture is None:
            return
        objects, lines = self._label(entry)
        if lines and not objects:
            self.account.whole(name, faults.NO_LINE_LEFT.found())
            self.account.pictures["refused"] += 1
            return
        self.account.pictures["without_label_file"] += entry.label is None
        if not objects and not self.options.keep_empty:
            self.account.pictures["left_out"] += 1
            return
        self._write(entry, name, picture, objects)

    def _read(self, entry: Entry, name: str) -> Picture | None:
        """The picture, or None where it is refused; then its label lines are refused with it."""
        try:
            name.encode()
            return read_picture(entry.picture, max_pixels=self.options.max_pixels, name=name)
        except UnicodeEncodeError:
            finding = faults.NAME_NOT_UNICODE.found()
        except UnreadablePicture as damage:
            finding = faults.UNREADABLE_PICTURE.found(damage="; ".join(c.what for c in damage.complaints))
        lines = count_lines(entry.label) if entry.label else 0
        self.account.whole(name, finding, lines=lines)
        self.account.pictures["refused"] += 1
        return None

    def _label(self, entry: Entry) -> tuple[list[Found], int]:
        """The objects of the entry's label file, and how many lines it has."""
        if entry.label is None:
            return [], 0
        name = self.dataset.tree.name(entry.label)
        file = LabelFile(entry.label, self.dataset.classes, self.options.policy)
        objects, lines = [], 0
        try:
            for line in file:
                self.account.line(name, line)
                lines += 1
                if line.found is not None:
                    objects.append(line.found)
        except OSError as damage:
            self.account.whole(name, faults.UNREADABLE_LABEL.found(damage=damage.strerror or damage))
            return [], 1
        self.account.label_file(file.spelling)
        return objects, lines

    def _write(self, entry: Entry, name: str, picture: Picture, objects: list[Found]) -> None:
        place = f"images/{name}"  # the path from the root: unique, whatever the names and stems are
        target = self.folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if picture.orientation == 1:
            shutil.copyfile(entry.picture, target)
        else:
            write_upright(picture, target)
            self.account.pictures["turned"] += 1
            self.account.whole(name, faults.TURNED.found(orientation=picture.orientation))
        self.writer.add(place, objects, entry.split)
        self.account.sample(entry.split, [found.label for found in objects])
        if objects and len(self.sheet) < _ON_THE_SHEET:
            small = picture.image.copy()
            small.thumbnail((_SHEET_PICTURE, _SHEET_PICTURE))
            self.sheet.append((small, [(found.box, found.label) for found in objects]))

    def _refuse_nothing(self) -> None:
        if self.account.boxes.total():
            return
        pictures, lines = self.account.totals()["pictures"]["read"], self.account.totals()["lines"]["read"]
        what = f"{pictures} pictures and {lines} label lines were read, and no box was left"
        fix = f"it was read as {self.dataset.layout}: {'; '.join(self.dataset.evidence)}"
        first = Complaint(self.dataset.described_by, what, fix)
        raise InvalidInput("The data set holds no usable sample", [first, *self.account.complaints])

    def _finish(self) -> ConversionReport:
        account, dataset, options = self.account, self.dataset, self.options
        names = dataset.classes.names
        data_sets = {
            name: {"split": split, "samples": account.samples[split], "boxes": account.boxes[split]}
            for split, name in self.writer.names.items()
        }
        head = {
            "version": VERSION,
            "layout": {"name": dataset.layout, "evidence": dataset.evidence},
            "options": {
                "name": options.name,
                "prompt": options.prompt,
                "policy": options.policy,
                "keep_empty": options.keep_empty,
            },
            "classes": None if names is None else {str(number): name for number, name in names.items()},
            "data_sets": data_sets,
            "boxes_per_class": dict(sorted(account.boxes_per_class.items())),
            "totals": account.totals(),
        }
        write_report(self.folder / REPORT, head, account.rows)
        contact_sheet(self.sheet).save(self.folder / CONTACT_SHEET)
        return ConversionReport(
            layout=dataset.layout,
            evidence=dataset.evidence,
            classes=tuple(names.values()) if names is not None else tuple(sorted(account.boxes_per_class)),
            samples=account.samples.total(),
            boxes=account.boxes.total(),
            totals=account.totals(),
            data_sets=data_sets,
        )
