"""Samples as the well-known tutorial's script for Qwen3-VL and LLaMA-Factory writes them, byte for byte.

All but those of faulty lines: what the script makes of an id without a class, of a box beside its picture and of an
outline is false. These are refused, or become the box around the outline, as everywhere.

Answers are `{"objects": [{"class_id": …, "bbox_2d": […], "label": …}]}`, without labels where the set has no names.
Pictures without objects, and those of kinds that the script does not look for, are left out; the JSON is indented.
Pictures are named as the records name them: the script's are absolute paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import orjson

from vlyard.formats import faults
from vlyard.formats.answering import entry_text, mentions, quoted, wrapped
from vlyard.formats.classes import Classes
from vlyard.formats.options import Options, plain
from vlyard.formats.reading import Refused
from vlyard.formats.record import Question, Record
from vlyard.formats.writers.samples import Form, SampleWriter
from vlyard.formats.writers.sharegpt import conversation, describe_by_from
from vlyard.formats.writing import Frame, Piece

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


@dataclass(frozen=True)
class TutorialWriter(SampleWriter):
    """Writes samples, and refuses the pictures that the script does not look for."""

    def render(self, record: Record, questions: Sequence[Question]) -> Sequence[Piece]:
        """One sample for each question. Raises `Refused` for other kinds of pictures."""
        suffix = PurePosixPath(record.picture).suffix.lower()
        if suffix not in _SUFFIXES:
            raise Refused(faults.NOT_IN_TUTORIAL.found(suffix=suffix))
        return super().render(record, questions)


def form(classes: Classes, options: Options) -> Form:
    """The tutorial's form, for a set with these classes."""
    sample = partial(_sample, classes.names is not None, plain(options, answer="objects"))
    return Form(".json", Frame(b"[\n", b",\n", b"\n]"), sample, describe_by_from, empty=False)


def _sample(labelled: bool, options: Options, picture: str, question: Question, _: Options) -> bytes:
    entries = (
        entry_text(each, str(list(each.thousandths)), quoted(each.target.label) if labelled else "", options)
        for each in mentions(question.targets, options)
    )
    sample = {"conversations": conversation(question.prompt, wrapped(entries, options)), "images": [picture]}
    # Inside the list everything stands two columns further in; line breaks of texts are escaped, and not touched.
    return b"  " + orjson.dumps(sample, option=orjson.OPT_INDENT_2).replace(b"\n", b"\n  ")
