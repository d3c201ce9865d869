"""From a labelled data set to a grounding data set, or to another label format: the one way, for jobs and commands.

The stages: recognise the format; for each picture look, read, choose, ask and render, in several processes; put the
pieces together in order. Memory does not grow with the set, and the same input gives the same bytes.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.archive import unpack
from vlyard.formats.asking import Asker
from vlyard.formats.choosing import Choice
from vlyard.formats.classes import Classes
from vlyard.formats.crew import Crew
from vlyard.formats.faults import SPARE_NEGATIVE, Status, judge
from vlyard.formats.options import LABEL_FORMATS, plain
from vlyard.formats.picture import DEFAULT_MAX_PIXELS
from vlyard.formats.planning import Chances, Plan
from vlyard.formats.plots import statistics_sheet
from vlyard.formats.reading import Reader, Row, Wanted
from vlyard.formats.recognition import recognise
from vlyard.formats.report import VERSION, Totals, write_report
from vlyard.formats.sheet import Sheet
from vlyard.formats.statistics import Tally
from vlyard.formats.streams import Streams
from vlyard.formats.tree import Tree
from vlyard.formats.work import Job, Jobs, Pictures, Sheaf, Span, Work
from vlyard.formats.writers.table import make_writer
from vlyard.formats.writing import Made
from vlyard.jobs.conversion import ConversionOptions

REPORT, TABLE, CONTACT_SHEET = "report.json", "report.csv", "contact_sheet.png"
STATISTICS, PLOTS = "statistics.json", "statistics.png"
_CHUNK = {"decode": 16, "header": 128, "none": 256}  # pictures: a tenth of a second's work, at most

Progress = Callable[[float | None, str], object]


@dataclass(frozen=True)
class ConversionReport:
    """What came out of a conversion: the head of `report.json`."""

    format: str
    layout: str
    evidence: tuple[str, ...]
    classes: tuple[str, ...]  # by id; in a set without names those that were met
    samples: int
    boxes: int
    totals: dict[str, Any]
    data_sets: dict[str, dict[str, Any]]


def convert(
    source: Path,
    output: Path,
    options: ConversionOptions,
    progress: Progress,
    *,
    pictures: Pictures = "copy",
    processes: int = 1,
    tokenizer: Path | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> ConversionReport:
    """Convert a folder or an archive; `output` becomes the data set's folder, and exists only after success.

    `pictures` says how they come into the output: as copies, as hard links where that is possible, or not at all, so
    that the samples name the source's own (all but those that must be written anew). At most `processes` processes
    work, this one included. `tokenizer` is the `tokenizer.json` for `max_answer_tokens`. `progress` is called with a
    fraction of 1 and a text every now and then; what it raises ends the conversion.

    Raises `InvalidInput` where the source is not there, holds no usable sample, or has a fault under the policy
    `strict`, where an option does not fit the source, where the output folder is not empty, lies in the source
    or cannot be made; `RefusedArchive` for an unsafe archive.
    """
    source, output = source.resolve(), output.resolve()
    _check_places(source, output)
    if pictures == "keep" and options.to in LABEL_FORMATS:
        complaint = Complaint("pictures", f"the format {options.to} has its pictures beside it", "copy or link them")
        raise InvalidInput("The options do not fit", [complaint])
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        if source.is_file():
            progress(None, "unpacking")
            unpack(source, Path(scratch) / "source")
            source, pictures = Path(scratch) / "source", "link"
        progress(None, "looking at the source")
        tree = Tree(source)
        count = tree.count_pictures()
        aside = Path(scratch) / "aside"
        aside.mkdir()
        # The helpers wake up while the source is recognised; a few pictures are done before any is awake.
        with Crew(processes if count > 2 * _CHUNK[options.check] else 1) as crew:
            said = options.source_format, options.labels, options.coordinates, options.kpt_shape
            reader = recognise(tree, Wanted(*said, aside))
            options = plain(_with_a_held_out_split(options, reader))
            choice = Choice.of(options, reader.classes)
            classes = Classes(choice.classes)
            writer = make_writer(options, classes, tuple(options.split or reader.splits))
            asker = Asker(options, classes, tokenizer)
            work = Work(reader, choice, asker, writer, options, made, output, pictures, max_pixels)
            report = _Conversion(work, Plan.of(reader, options, writer, count), aside, progress).run(crew)
        if output.exists():
            output.rmdir()
        made.rename(output)
    return report


def _with_a_held_out_split(options: ConversionOptions, reader: Reader) -> ConversionOptions:
    if options.hold_out is None or len(reader.splits) != 1:
        return options
    return options.model_copy(update={"split": {"train": 1 - options.hold_out, "val": options.hold_out}})


def _check_places(source: Path, output: Path) -> None:
    if not source.exists():
        raise InvalidInput("Nothing can be converted", [Complaint(str(source), "there is no such folder or archive")])
    if output.resolve().is_relative_to(source):
        complaint = Complaint(str(output), "the output would lie inside the source", "choose a folder elsewhere")
        raise InvalidInput("The output cannot be written", [complaint])
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        complaint = Complaint(str(output), "it exists and is not an empty folder", "choose a new folder")
        raise InvalidInput("The output cannot be written", [complaint])
    if output.is_mount():
        complaint = Complaint(str(output), "a file system is mounted there", "choose a folder inside it")
        raise InvalidInput("The output cannot be written", [complaint])
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        complaint = Complaint(str(output), f"{error.filename}: {error.strerror}", "choose a folder elsewhere")
        raise InvalidInput("The output cannot be written", [complaint]) from error
    if not os.access(output.parent, os.W_OK | os.X_OK):  # the output is made beside its place, and then moved
        complaint = Complaint(str(output.parent), "nothing can be written there", "choose a folder elsewhere")
        raise InvalidInput("The output cannot be written", [complaint])


class _Conversion:
    """One run over one data set: everything that concerns more than one picture."""

    def __init__(self, work: Work, plan: Plan, aside: Path, progress: Progress) -> None:
        self.work, self.plan, self.progress = work, plan, progress
        self.rows = aside / "rows"
        self.totals, self.tally = Totals(), Tally()
        self.held_back = Chances(aside / "held_back", work.options.seed)
        self.strays = aside / "strays"
        self.done = 0

    def run(self, crew: Crew) -> ConversionReport:
        path = self.work.folder / CONTACT_SHEET
        with Sheet(path, self.plan.pictures, self.work.max_pixels) as sheet:
            self._convert(crew, sheet)
            return self._finish(sheet)

    def _convert(self, crew: Crew, sheet: Sheet) -> None:
        work = self.work
        chunk = _CHUNK[work.options.check]
        with self.rows.open("wb") as rows, Streams(work.folder, work.writer) as streams:
            for sheaf in crew.in_order(work, _chunks(self._jobs(), chunk)):
                self._add(sheaf, rows, streams)
                self.done += _done(sheaf)
                sheet.offer(sheaf.shown, self.done)
                self._say(self.done, self.plan.pictures)
            self.done, most = 0, self.held_back.count
            for sheaf in crew.in_order(work, _chunks(self._negatives(), chunk)):
                self._add(sheaf, rows, streams)
                self.done += _done(sheaf)
                self._say(self.plan.pictures, self.plan.pictures, f", {self.done} of {most} without objects again")
            with self.strays.open("rb") as told:
                for row in told:
                    _append(rows, row.rstrip(b"\n"))
            self._refuse_nothing()
        read = self.totals.as_json()["pictures"]["read"]
        self.progress(1.0, f"{read} of {read} pictures")

    def _jobs(self) -> Iterator[Job | Span]:
        """The pictures to do; what is none is put aside on the disk, since a report tells of it at the end."""
        policy = self.work.options.policy
        with self.strays.open("wb") as told:
            for item in self.plan.jobs():
                if isinstance(item, Job | Span):
                    yield item
                else:
                    status = judge([item.finding], policy)
                    told.write(
                        self.totals.row(Row(item.place, status, (item.finding,), item.annotations), policy) + b"\n"
                    )
                    part = Status.REFUSED if status is Status.REFUSED else "left_out"
                    self.totals.annotations[part] += item.annotations
                    self.totals.pictures["refused"] += item.picture

    def _add(self, sheaf: Sheaf, rows: BinaryIO, streams: Streams) -> None:
        self.totals += sheaf.totals
        self.tally += sheaf.tally
        for row in sheaf.rows:
            _append(rows, row)
        for file, entries in sheaf.pieces.items():
            streams.add(file, entries)
        for job in sheaf.held_back:
            self.held_back.add(job)

    def _say(self, done: int, expected: int, more: str = "") -> None:
        done = min(done, expected)
        self.progress(done / expected if expected else None, f"{done} of {expected} pictures{more}")

    def _negatives(self) -> Iterator[Job]:
        """As many of the pictures without objects as are wanted for samples with objects, split by split."""
        options, left = self.work.options, Sheaf()
        if options.negatives is None:
            return
        each = 1 if options.to in LABEL_FORMATS else options.questions  # samples of a picture without objects
        counts = {split: int(count * options.negatives / each) for split, count in self.totals.samples.items()}
        with self.strays.open("ab") as told:
            for job in self.held_back.lowest(counts):
                if job.chosen:
                    yield job
                    continue
                self.work.leave_out(job, SPARE_NEGATIVE, left)
                told.write(left.rows.pop() + b"\n")
        self.totals += left.totals

    def _refuse_nothing(self) -> None:
        if self.totals.boxes.total():
            return
        totals, reader = self.totals.as_json(), self.work.reader
        pictures, annotations = totals["pictures"]["read"], totals["annotations"]["read"]
        what = f"{pictures} pictures and {annotations} annotations were read, and no object was left"
        fix = f"it was read as {reader.format}, {reader.layout}: {'; '.join(reader.evidence)}"
        first = Complaint(reader.described_by, what, fix)
        raise InvalidInput("The data set holds no usable sample", [first, *self.totals.complaints])

    def _finish(self, sheet: Sheet) -> ConversionReport:
        totals, reader, folder = self.totals, self.work.reader, self.work.folder
        splits = tuple(sorted(totals.samples, key=lambda split: (*reader.splits, split).index(split)))
        classes = self._classes()
        names = self.work.writer.finish(Made(folder, splits, classes))
        data_sets = {
            name: {"split": split, "samples": totals.samples[split], "boxes": totals.boxes[split]}
            for split, name in names.items()
        }
        head = {
            "version": VERSION,
            "source": {
                "format": reader.format,
                "layout": reader.layout,
                "evidence": reader.evidence,
                "described_by": reader.described_by,
            },
            "options": vars(self.work.options),
            "classes": None if self.work.choice.classes is None else {str(n): name for n, name in classes.items()},
            "data_sets": data_sets,
            "boxes_per_class": dict(sorted(totals.boxes_per_class.items())),
            "totals": totals.as_json(),
        }
        write_report(folder, head, self.rows)
        statistics = self.tally.as_json()
        (folder / STATISTICS).write_bytes(orjson.dumps(statistics, option=orjson.OPT_INDENT_2))
        statistics_sheet(statistics).save(folder / PLOTS, compress_level=1)
        sheet.finish()
        return ConversionReport(
            format=reader.format,
            layout=reader.layout,
            evidence=reader.evidence,
            classes=tuple(self.totals.classes[n] for n in sorted(self.totals.classes))
            if self.work.choice.classes is None
            else tuple(classes.values()),
            samples=totals.samples.total(),
            boxes=totals.boxes.total(),
            totals=totals.as_json(),
            data_sets=data_sets,
        )

    def _classes(self) -> Mapping[int, str]:
        """The output's classes; where the source has no names, all up to the highest id that was met."""
        if self.work.choice.classes is not None:
            return self.work.choice.classes
        met = self.totals.classes
        return {number: met.get(number, f"class_{number}") for number in range(max(met, default=-1) + 1)}


def _append(rows: BinaryIO, row: bytes) -> None:
    rows.write((b",\n" if rows.tell() else b"") + row)


def _done(sheaf: Sheaf) -> int:
    """How many pictures were seen to."""
    pictures = sheaf.totals.pictures
    return pictures["kept"] + pictures["refused"] + pictures["left_out"] + len(sheaf.held_back)


def _chunks(items: Iterable[Job | Span], size: int) -> Iterator[Jobs | Span]:
    """All jobs in their order, so many at a time; fewer where a long span begins."""
    chunk = Jobs()
    for item in items:
        rest: Iterable[Job] = (item,) if isinstance(item, Job) else item
        if isinstance(item, Span) and (whole := len(item.run.names) // size * size):
            if chunk:
                yield chunk
                chunk = Jobs()
            yield from (item.part(first, first + size) for first in range(0, whole, size))
            rest = item.part(whole, len(item.run.names))
        for job in rest:
            chunk.append(job)
            if len(chunk) == size:
                yield chunk
                chunk = Jobs()
    if chunk:
        yield chunk
