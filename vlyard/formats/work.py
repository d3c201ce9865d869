"""What is done with each picture of a set, in whichever process: look, read, choose, ask, render, account.

A piece of work is a plain value; what it makes of a chunk of pictures is another. It decides nothing that depends on
more than one picture.
"""

import marshal
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from vlyard.errors import UnreadablePicture
from vlyard.formats import faults
from vlyard.formats.answering import has_no_area
from vlyard.formats.asking import Asker
from vlyard.formats.box import Box
from vlyard.formats.choosing import Choice
from vlyard.formats.counting import count_tokens
from vlyard.formats.faults import FAULTS, Fault, Finding, Status
from vlyard.formats.looking import look, rewritten
from vlyard.formats.options import LABEL_FORMATS, Options
from vlyard.formats.picture import damaged
from vlyard.formats.reading import Place, Reader, Reading, Refused, Row, Run, Unit
from vlyard.formats.record import Look, Question, Record
from vlyard.formats.report import Totals
from vlyard.formats.short_way import ShortWay
from vlyard.formats.statistics import Tally
from vlyard.formats.tree import storable
from vlyard.formats.writing import Piece, Writer

Pictures = Literal["copy", "link", "keep"]
_NOBODY_LOOKED = Look(), None
_SHOWN_EACH = 12  # pictures of a chunk that may come on the contact sheet


class Job(NamedTuple):
    """One picture to do."""

    number: int  # its place in the set, from 0
    unit: Unit
    name: str  # under which the output keeps it
    chosen: bool = False  # a picture without objects that was held back, and is to be written now


class Jobs(list[Job]):
    """A chunk of work, which goes to another process in a fifth of the time that pickling a list of tuples takes."""

    def __reduce__(self) -> tuple[Callable[[bytes], "Jobs"], tuple[bytes]]:
        return _unpacked, (marshal.dumps([(job.number, tuple(job.unit), job.name, job.chosen) for job in self]),)


def _unpacked(packed: bytes) -> Jobs:
    # It comes from this program's own process, and of the same Python.
    return Jobs(Job(number, Unit(*unit), name, chosen) for number, unit, name, chosen in marshal.loads(packed))  # noqa: S302


@dataclass(frozen=True)
class Span:
    """Jobs for the pictures of a run, which are made where they are done."""

    number: int  # of the first picture
    run: Run

    def __iter__(self) -> Iterator[Job]:
        for number, unit in enumerate(self.run.units(), self.number):
            yield Job(number, unit, unit.name)

    def part(self, first: int, last: int) -> "Span":
        """Those from one place to before another one."""
        return Span(self.number + first, self.run._replace(names=self.run.names[first:last]))


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture that may come on the contact sheet."""

    path: str
    boxes: tuple[tuple[Box, str], ...]  # relative, with their labels


@dataclass
class Sheaf:
    """What came of a chunk of pictures, in their order."""

    pieces: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))  # file -> entries
    rows: list[bytes] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    tally: Tally = field(default_factory=Tally)
    shown: list[Shown] = field(default_factory=list)
    held_back: list[Job] = field(default_factory=list)  # pictures without objects, for whoever knows how many to keep


@dataclass(frozen=True)
class Work:
    """How every picture is done."""

    reader: Reader
    choice: Choice
    asker: Asker
    writer: Writer
    options: Options
    folder: Path  # where the output is made
    home: Path  # where it will be
    pictures: Pictures
    max_pixels: int

    def do(self, jobs: Iterable[Job]) -> Sheaf:
        """Do a chunk of pictures. Raises `InvalidInput` for a fault under the policy `strict`."""
        sheaf = Sheaf()
        for job in jobs:
            seen, damage = self._look(job.unit)
            if damage is not None or not self._shortly(job, seen, sheaf):
                self._one(job, seen, damage, sheaf)
        if self._short_way is not None:
            self._short_way.add_up(sheaf.totals, sheaf.tally)
        return sheaf

    def account(self, row: Row, sheaf: Sheaf) -> None:
        """Put a row into the report."""
        sheaf.rows.append(sheaf.totals.row(row, self.options.policy))

    def _shortly(self, job: Job, seen: Look, sheaf: Sheaf) -> bool:
        """Do a picture the short way; False, and nothing done, where that is not possible."""
        way, unit = self._short_way, job.unit
        if way is None or unit.label is None or seen.rewrite or seen.remark:
            return False
        sample = way.sample(unit.label, self._picture(job, seen))
        if sample is None:
            return False
        try:
            self._put_picture(job, seen)
        except UnreadablePicture:
            return False
        sheaf.pieces[way.file(unit.split)].append(sample.entry)
        if len(sheaf.shown) < _SHOWN_EACH:
            sheaf.shown.append(Shown(unit.path, way.shown(sample)))
        way.count(unit.split, seen, sample)
        return True

    @cached_property
    def _short_way(self) -> ShortWay | None:
        return ShortWay.of(self.reader, self.choice, self.asker, self.writer, self.options)

    def _one(self, job: Job, seen: Look, damage: Finding | None, sheaf: Sheaf) -> None:
        reading = Reading(self.options.policy, keep_duplicates=self.options.to == "tutorial")
        self.reader.read(job.unit, seen, reading)
        if damage is None and not reading.targets and any(row.status is Status.REFUSED for row in reading.rows):
            damage = faults.NO_LINE_LEFT.found()
        if damage is not None:
            self._refuse(job, damage, reading, sheaf)
            return
        targets = self.choice.chosen(reading.targets, seen)
        left_out = self.choice.left_out(reading.targets, seen) if len(targets) < len(reading.targets) else []
        record = Record(job.number, job.unit.path, self._picture(job, seen), job.unit.split, seen, targets)
        if not targets and any(finding.fault is not faults.OTHER_CLASS for finding in left_out):
            self._count(job, reading, left_out, sheaf)
            self.leave_out(job, faults.EMPTIED, sheaf)
            return
        if not targets and not job.chosen and self._holds_back(job, sheaf):
            self._count(job, reading, left_out, sheaf)
            return
        try:
            questions = self._questions(record)
            pieces = self.writer.render(record, questions)
            if pieces:  # first, since a picture whose header alone was seen may turn out damaged
                self._put_picture(job, seen)
        except (Refused, UnreadablePicture) as refused:
            finding = refused.finding if isinstance(refused, Refused) else _unreadable(refused)
            # What was held back is accounted for already, all but the picture.
            self._refuse(job, finding, Reading(self.options.policy) if job.chosen else reading, sheaf)
            return
        if not job.chosen:
            self._count(job, reading, left_out, sheaf)
        if pieces:
            self._remark(job, record, sheaf)
            self._write(record, questions, pieces, sheaf)
        else:
            self.leave_out(job, faults.NO_SAMPLE, sheaf)

    def leave_out(self, job: Job, fault: Fault, sheaf: Sheaf) -> None:
        """Account for a picture that could be used, and that the options do not want."""
        self.account(Row(_place(job), fault.status, (fault.found(),)), sheaf)
        sheaf.totals.pictures["left_out"] += 1

    def _questions(self, record: Record) -> Sequence[Question]:
        if self.options.to in LABEL_FORMATS:
            return ()
        questions = self.asker.questions(record)
        return questions if self.writer.negatives else [question for question in questions if question.targets]

    def _look(self, unit: Unit) -> tuple[Look, Finding | None]:
        """The picture's look, and what forbids to use it."""
        if self.options.check == "none" and unit.name.isascii():
            return _NOBODY_LOOKED
        try:
            unit.name.isascii() or unit.name.encode()
            return look(unit.path, self.options.check, max_pixels=self.max_pixels, name=unit.name), None
        except UnicodeEncodeError:
            return Look(), faults.NAME_NOT_UNICODE.found()
        except UnreadablePicture as damage:
            return Look(), _unreadable(damage)

    def _picture(self, job: Job, seen: Look) -> str:
        if self.pictures != "keep":
            return self.writer.place(job.unit.split, job.name)
        return str(self.home / self.writer.place(job.unit.split, job.name)) if seen.rewrite else job.unit.path

    def _refuse(self, job: Job, finding: Finding, reading: Reading, sheaf: Sheaf) -> None:
        """Account for a picture that is not used, and with it for its annotations that were not refused before."""
        for row in reading.rows:
            if row.status is Status.REFUSED:
                self.account(row, sheaf)
        rest = reading.kept + reading.fixed
        self.account(Row(_place(job), Status.REFUSED, (finding,), rest), sheaf)
        sheaf.totals.annotations["refused"] += reading.refused + rest
        sheaf.totals.pictures["refused"] += 1

    def _count(self, job: Job, reading: Reading, left_out: Sequence[Finding], sheaf: Sheaf) -> None:
        """Account for all that was read of a picture that can be used."""
        totals = sheaf.totals
        for row in reading.rows:
            self.account(row, sheaf)
        # What holds no object may say so, or say nothing.
        if not reading.annotations and job.unit.label is None and job.unit.key is None:
            totals.pictures["without_label_file"] += 1
            self.account(Row(_place(job), Status.KEPT, (faults.NO_LABEL_FILE.found(),)), sheaf)
        if reading.spelling:
            totals.spelling.update(reading.spelling)
        counts, kept = totals.annotations, reading.kept
        for finding in left_out:
            # An annotation that was mended and is not wanted counts as mended: its row says so.
            unwanted = min(finding.count, kept)
            kept -= unwanted
            counts["left_out"] += unwanted
            self.account(Row(_place(job), finding.fault.status, (finding,), unwanted), sheaf)
        counts["kept"] += kept
        counts["fixed"] += reading.fixed
        counts["refused"] += reading.refused

    def _remark(self, job: Job, record: Record, sheaf: Sheaf) -> None:
        """Account for what is odd about a picture that is written, and about how its objects are."""
        seen = record.look
        for code in (seen.rewrite, seen.remark):
            if code:
                self._note(job, FAULTS[code].found(orientation=seen.orientation), sheaf)
        for part, name in self.writer.drops.items():
            if count := sum(bool(getattr(target, part)) for target in record.targets):
                self._note(job, faults.NOT_IN_FORMAT.found(count=count, part=name, to=self.options.to), sheaf)
        if self.options.to not in LABEL_FORMATS and self.options.targets == "boxes":
            thin = sum(has_no_area(target.box) for target in record.targets)
            fault = faults.NO_AREA_LEFT if self.options.to == "tutorial" else faults.UNDER_THE_GRID
            if thin:
                self._note(job, fault.found(count=thin), sheaf)

    def _note(self, job: Job, finding: Finding, sheaf: Sheaf) -> None:
        self.account(Row(_place(job), finding.fault.status, (finding,)), sheaf)

    def _holds_back(self, job: Job, sheaf: Sheaf) -> bool:
        """Whether a picture without objects waits until it is known how many of them are wanted."""
        if self.options.negatives is None or self.options.ask == "each":
            return False
        sheaf.held_back.append(job)
        return True

    def _write(self, record: Record, questions: Sequence[Question], pieces: Sequence[Piece], sheaf: Sheaf) -> None:
        totals = sheaf.totals
        for piece in pieces:
            if self._grows[piece.file]:
                sheaf.pieces[piece.file].extend(piece.entries)
            else:
                path = self.folder / piece.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"".join(piece.entries))
        asked = [question.targets for question in questions] or [record.targets]
        boxes = sum(map(len, asked))
        totals.pictures["kept"] += 1
        totals.pictures["without_objects"] += not record.targets
        totals.pictures["rewritten"] += bool(record.look.rewrite)
        totals.samples[record.split] += len(asked)
        totals.boxes[record.split] += boxes
        if self.choice.classes is None:
            totals.classes.update({target.class_id: target.label for target in record.targets})
        for targets in asked:
            for target in targets:
                totals.boxes_per_class[target.label] += 1
        counted = self.asker.tokenizer
        tokens = [count_tokens(counted, question.answer) for question in questions] if counted else ()
        sheaf.tally.add(record, [len(question.answer) for question in questions], tokens)
        if record.targets and len(sheaf.shown) < _SHOWN_EACH:
            sheaf.shown.append(Shown(record.source, tuple((each.box, each.label) for each in record.targets)))

    @cached_property
    def _grows(self) -> "_Growing":
        return _Growing(self.writer)

    def _put_picture(self, job: Job, seen: Look) -> None:
        if self.pictures == "keep" and not seen.rewrite:
            return
        source, target = job.unit.path, self._path(self.writer.place(job.unit.split, job.name))
        try:
            if seen.rewrite:
                rewritten(source, Path(target), seen)
            elif self.pictures == "link":
                _linked(source, target)
            else:
                shutil.copyfile(source, target)
        except OSError as error:
            if error.filename != source:  # the disk's trouble, and no picture's
                raise
            raise damaged(job.unit.name, error) from error  # nobody looked at it before

    def _path(self, place: str) -> str:
        """The path of an output's file, whose folder is there."""
        folder = f"{self.folder}/{place.rpartition('/')[0]}"
        if folder not in self._folders:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - names by the million are no Paths
            self._folders.add(folder)
        return f"{self.folder}/{place}"

    @cached_property
    def _folders(self) -> set[str]:
        return set()


def _place(job: Job) -> Place:
    return Place(storable(job.unit.name))


def _unreadable(damage: UnreadablePicture) -> Finding:
    return faults.UNREADABLE_PICTURE.found(damage="; ".join(complaint.what for complaint in damage.complaints))


class _Growing(dict[str, bool]):
    """Which files of the output grow from pieces of several pictures."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._frame: Callable[[str], object | None] = writer.frame

    def __missing__(self, file: str) -> bool:
        return self._frame(file) is not None


def _linked(source: str, target: str) -> None:
    try:
        # With a folder that it may begin from, Linux links what a symbolic link leads to, and else the link itself.
        os.link(source, target, src_dir_fd=_root() if os.link in os.supports_dir_fd else None)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


@lru_cache(maxsize=1)
def _root() -> int:
    return os.open("/", os.O_RDONLY)
