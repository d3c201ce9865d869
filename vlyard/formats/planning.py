"""What concerns more than one picture, decided with a few bytes for each: new splits, names, which negatives stay.

Whatever is chosen by chance depends on the seed and the pictures' names alone: never on the machine or the run.
"""

import pickle
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath

from vlyard.formats.options import Options
from vlyard.formats.ordering import chance
from vlyard.formats.readers.yolo import YoloReader
from vlyard.formats.reading import Reader, Run, Stray, Unit
from vlyard.formats.work import Job, Span
from vlyard.formats.writing import Writer


@dataclass(frozen=True)
class Plan:
    """How the units of a reader become jobs."""

    reader: Reader
    seed: int
    limits: tuple[tuple[str, int], ...]  # split -> the chance below which a picture is its own; empty: as the source
    writer: Writer
    pictures: int  # about how many there are, for telling progress

    @classmethod
    def of(cls, reader: Reader, options: Options, writer: Writer, count: int) -> "Plan":
        """Find where the shares of a new split end; `count` is about how many pictures there are."""
        if options.split is None:
            return cls(reader, options.seed, (), writer, count)
        units = (unit for unit in reader.units() if isinstance(unit, Unit))
        chances = array("Q", (_chance(options.seed, unit.name) for unit in units))
        ordered = array("Q", sorted(chances))
        limits = []
        for split, share in zip(options.split, accumulate(options.split.values()), strict=True):
            place = min(round(share * len(ordered)), len(ordered))
            limits.append((split, ordered[place] if place < len(ordered) else 2**64))
        return cls(reader, options.seed, tuple(limits), writer, len(ordered))

    def jobs(self) -> Iterator[Stray | Job | Span]:
        """Every unit in its split, with the name that the output gives its picture; and every stray."""
        taken: set[int] = set()
        number, unique, reader = 0, self.writer.unique_stems, self.reader
        as_they_are = not (self.limits or unique)
        for item in reader.runs() if as_they_are and isinstance(reader, YoloReader) else reader.units():
            if isinstance(item, Run):
                yield Span(number, item)
                number += len(item.names)
                continue
            if isinstance(item, Stray):
                yield item
            else:
                unit = item._replace(split=self._split(item)) if self.limits else item
                yield Job(number, unit, self._unique(unit, taken) if unique else unit.name)
            number += 1

    def _split(self, unit: Unit) -> str:
        own = _chance(self.seed, unit.name)
        return next(split for split, limit in self.limits if own < limit)

    def _unique(self, unit: Unit, taken: set[int]) -> str:
        """The name, told apart where two pictures of a folder differ by their suffix alone: a.png beside a.jpg."""
        path = PurePosixPath(unit.name)
        stem, number = path.with_suffix(""), 0
        while (key := chance(0, self.writer.place(unit.split, str(stem)))) in taken:
            number += 1
            stem = path.with_name(f"{path.stem}_{path.suffix[1:]}{number if number > 1 else ''}")
        taken.add(key)
        return f"{stem}{path.suffix}"


def _chance(seed: int, name: str) -> int:
    """A number below 2**64 that the seed gives the picture; one for all pictures that were made from the same one.

    Roboflow calls its augmented copies `<name>.rf.<hash>.jpg`: in two splits, they would teach what is then tested.
    """
    return chance(seed, "split", name.partition(".rf.")[0])


class Chances:
    """Pictures that are held back until it is known how many are wanted. They wait on the disk."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._seed = path, seed
        self._chances: dict[str, array[int]] = {}  # split -> chances
        self.count = 0

    def add(self, job: Job) -> None:
        """Hold a picture back."""
        with self._path.open("ab") as file:
            pickle.dump(job, file)
        self._chances.setdefault(job.unit.split, array("Q")).append(self._chance(job))
        self.count += 1

    def lowest(self, counts: Mapping[str, int]) -> Iterator[Job]:
        """All pictures in the order in which they came; so many of each split, with the lowest chances, are chosen."""
        limits = {split: _limit(chances, counts.get(split, 0)) for split, chances in self._chances.items()}
        if not self.count:
            return
        with self._path.open("rb") as file:
            for _ in range(self.count):
                job: Job = pickle.load(file)  # noqa: S301 - our own, from a folder of our own
                yield job._replace(chosen=self._chance(job) < limits[job.unit.split])

    def _chance(self, job: Job) -> int:
        return chance(self._seed, "negative", job.unit.name)


def _limit(chances: "array[int]", count: int) -> int:
    return 2**64 if count >= len(chances) else sorted(chances)[count]
