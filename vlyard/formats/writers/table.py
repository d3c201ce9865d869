"""The output formats: a table. To write one more, add a file, a row here, and its name to the options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlyard.formats.classes import Classes
from vlyard.formats.options import Options
from vlyard.formats.writers import tutorial
from vlyard.formats.writers.coco import CocoWriter
from vlyard.formats.writers.qwen import QWEN
from vlyard.formats.writers.samples import Form, SampleWriter
from vlyard.formats.writers.sharegpt import BY_FROM, BY_ROLE
from vlyard.formats.writers.swift import SWIFT
from vlyard.formats.writers.trl import TRL
from vlyard.formats.writers.voc import VocWriter
from vlyard.formats.writers.yolo import YoloWriter
from vlyard.formats.writing import Writer


@dataclass(frozen=True)
class Output:
    """What a writer is made for."""

    options: Options
    classes: Classes  # the output's; without names where the set has none
    splits: Sequence[str]  # all that there can be, in the set's own order

    @property
    def main(self) -> str:
        """The split that is trained on: its data set has the plain name, even where no picture is left for it."""
        return "train" if "train" in self.splits else self.splits[0]


def make_writer(options: Options, classes: Classes, splits: Sequence[str]) -> Writer:
    """The writer for the option `to`."""
    return WRITERS[options.to](Output(options, classes, splits))


def _samples(form: Form) -> Callable[[Output], Writer]:
    return lambda output: SampleWriter(form, output.options, output.main)


def _tutorial(output: Output) -> Writer:
    return tutorial.TutorialWriter(tutorial.form(output.classes, output.options), output.options, output.main)


WRITERS: Mapping[str, Callable[[Output], Writer]] = {  # by the option `to`
    "sharegpt": _samples(BY_ROLE),
    "sharegpt-from-value": _samples(BY_FROM),
    "qwen": _samples(QWEN),
    "swift": _samples(SWIFT),
    "trl": _samples(TRL),
    "tutorial": _tutorial,
    "yolo": lambda _: YoloWriter(),
    "coco": lambda _: CocoWriter(),
    "voc": lambda _: VocWriter(),
}
