"""What the writers of samples have in common: one sample for each question, in a file for each split.

It knows no trainer: what a sample looks like, and what describes the whole, is the `Form` of each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlyard.formats.options import Options
from vlyard.formats.record import Question, Record
from vlyard.formats.writing import Frame, Made, Piece

LIST = Frame(b"[\n", b",\n", b"\n]\n")  # a JSON list with a line for each sample
LINES = Frame(b"", b"\n", b"\n")  # JSONL


@dataclass(frozen=True)
class Form:
    """How a trainer's samples look. The functions stand in modules, so that a form can be pickled."""

    suffix: str  # of the files of samples
    frame: Frame
    sample: Callable[[str, Question, Options], bytes]  # of the picture's name and one question
    describe: Callable[[Made, Mapping[str, str]], None]  # writes what says how to use them; data sets by split
    empty: bool = True  # whether there are samples without objects


@dataclass(frozen=True)
class SampleWriter:
    """Writes samples in one form.

    The samples of `main`, the split that is trained on, stand in `<name><suffix>`, and those of another one in
    `<name>_<split><suffix>`, so that a trainer that is given the name never sees what is kept for testing.
    """

    form: Form
    options: Options
    main: str
    unique_stems: bool = False

    @property
    def negatives(self) -> bool:
        return self.form.empty

    @property
    def drops(self) -> Mapping[str, str]:
        """Nothing: an answer says what was asked for."""
        return {}

    def place(self, split: str, name: str) -> str:
        """As in the source, below `images/`."""
        del split  # a picture's path in the source is unique already
        return f"images/{name}"

    def frame(self, file: str) -> Frame | None:
        """The same for every file of samples."""
        del file
        return self.form.frame

    def render(self, record: Record, questions: Sequence[Question]) -> Sequence[Piece]:
        """One sample for each question."""
        asked = questions if self.form.empty else [question for question in questions if question.targets]
        entries = tuple(self.form.sample(record.picture, question, self.options) for question in asked)
        return (Piece(self.file(record.split), entries),) if entries else ()

    def file(self, split: str) -> str:
        """The file with the samples of a split."""
        return self._name(split) + self.form.suffix

    def finish(self, made: Made) -> Mapping[str, str]:
        """Write what describes the samples; returns the name of each split's data set."""
        names = {split: self._name(split) for split in made.splits}
        self.form.describe(made, names)
        return names

    def _name(self, split: str) -> str:
        return self.options.name if split == self.main else f"{self.options.name}_{split}"
