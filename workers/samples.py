"""The pictures of a dataset with what is asked about each: what a conversion made, or a folder of pictures.

A dataset comes from somebody else: no path in it leads out of its folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.archive import unpack
from vlyard.formats.converted import REPORT, ConvertedSet, open_converted
from vlyard.formats.tree import Tree, storable
from vlyard.jobs.prediction import PredictionSpec
from workers.context import Context


@dataclass(frozen=True)
class Asked:
    """One picture and the question about it."""

    number: int  # in the whole dataset, from 1
    picture: str  # as the dataset calls it
    path: Path | None  # None where the name leads out of the dataset
    question: str
    split: str | None = None
    truth: str | None = None  # the answer that the dataset has


@dataclass(frozen=True)
class Dataset:
    """The dataset that a prediction is about, on this worker's disk."""

    spec: PredictionSpec
    context: Context

    def samples(self) -> Iterator[Asked]:
        """Its samples, or this shard's, in their order. Raises `InvalidInput` and `RefusedArchive`."""
        every = islice(_samples(self.spec, self._folder), self.spec.limit)
        return every if self.spec.shard is None else islice(every, self.spec.shard, None, self.spec.shards)

    @cached_property
    def _folder(self) -> Path:
        path = self.context.input(self.spec.dataset)
        if path.is_dir():
            return path
        folder = self.context.folder / "dataset"
        if not folder.is_dir():  # the job has not looked at it before
            partial = folder.with_name("dataset.part")
            unpack(path, partial)
            partial.rename(folder)
        return folder


def _samples(spec: PredictionSpec, folder: Path) -> Iterator[Asked]:
    root = _root_of_converted(folder)
    if root is not None:
        yield from _converted(spec, open_converted(root), root)
        return
    question = spec.question()
    if question is None:
        what = "the dataset brings no questions: it is not what a conversion made"
        raise InvalidInput("Nothing is asked", [Complaint("/spec/prompt", what, "give a prompt or a preset")])
    if spec.splits:
        what = "the dataset has no splits: it is not what a conversion made"
        raise InvalidInput("There is no such split", [Complaint("/spec/splits", what, "leave it out")])
    tree = Tree(folder.resolve())
    for number, path in enumerate(tree.pictures(), 1):
        yield Asked(number, storable(tree.name(path)), path, question)


def _converted(spec: PredictionSpec, dataset: ConvertedSet, root: Path) -> Iterator[Asked]:
    question, number, before = spec.question(), 0, None
    for name in _data_sets(spec, dataset):
        for sample in dataset.samples(name):
            if question is not None and sample.picture == before:
                continue  # its own questions about the picture give way to one
            before, number = sample.picture, number + 1
            split = dataset.head["data_sets"][name]["split"]
            truth = sample.answer if question is None else None
            yield Asked(
                number, sample.picture, _inside(root, sample.picture), question or sample.question, split, truth
            )


def _data_sets(spec: PredictionSpec, dataset: ConvertedSet) -> list[str]:
    splits = {name: str(part["split"]) for name, part in dataset.head["data_sets"].items()}
    if unknown := [split for split in spec.splits if split not in splits.values()]:
        what = f"the dataset has no split {unknown[0]!r}"
        fix = f"it has {', '.join(sorted(set(splits.values())))}"
        raise InvalidInput("There is no such split", [Complaint("/spec/splits", what, fix)])
    return [name for name, split in splits.items() if not spec.splits or split in spec.splits]


def _root_of_converted(folder: Path) -> Path | None:
    """Where a conversion's report is: here, or in the only folder here."""
    inside = [each for each in folder.iterdir() if each.is_dir()]
    candidates = [folder, *inside] if len(inside) == 1 else [folder]
    return next((each for each in candidates if (each / REPORT).is_file()), None)


def _inside(root: Path, name: str) -> Path | None:
    path = (root / name).resolve()
    return path if path.is_relative_to(root.resolve()) else None
