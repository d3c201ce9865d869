"""The questions of an evaluation with what is right, and answers that were given before.

It knows no model and no metric.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.answer import Answer, Note, parse_answer
from vlyard.jobs.evaluation import EvaluationSpec
from vlyard.jobs.prediction import PredictionSpec
from workers.context import Context
from workers.samples import Asked, Dataset
from workers.sight import Given

_SHOWN = 3  # complaints of an error


@dataclass(frozen=True)
class Question:
    """What is asked about a picture, and what is right."""

    number: int  # from 1
    picture: str  # as the dataset calls it
    path: Path | None  # None where the name leads out of the dataset
    words: str
    split: str | None
    truth: Answer

    def look(self) -> Image.Image:
        """The picture as displayed. Raises `UnreadablePicture` and `InvalidInput`."""
        return self.given().see()

    def given(self) -> Given:
        """The picture, to be looked at later. Raises `InvalidInput`."""
        if self.path is None:
            what, fix = "the path leads out of the dataset", "convert again, with the pictures in the dataset"
            raise InvalidInput("The picture cannot be read", [Complaint(self.picture, what, fix)])
        return Given(self.path, self.picture)


@dataclass(frozen=True)
class Said:
    """An answer, or why there is none."""

    text: str | None = None
    finish_reason: str | None = None
    size: tuple[int, int] | None = None  # of the picture as displayed, in pixels
    confidences: Sequence[float] | None = None  # of the boxes in the text; None: 1 each
    error: str | None = None


def questions_of(spec: EvaluationSpec, context: Context) -> tuple[list[Question], int]:
    """The questions, and how many samples are left out because their own answers are no boxes.

    Raises `InvalidInput` where none is left, where the dataset is none with answers, or none of its pictures is there.
    """
    samples = _samples(spec, context)
    every = [_question(asked) for asked in samples]
    usable = [question for question in every if _is_of_boxes(question.truth)]
    if not usable:
        raise InvalidInput("There is nothing to measure", list(_without_boxes(every)))
    if not any(question.path is not None and question.path.is_file() for question in usable):
        fix = "convert again, with the pictures in the dataset"
        complaints = [Complaint(question.picture, "there is no such picture", fix) for question in usable[:_SHOWN]]
        raise InvalidInput("None of the dataset's pictures is there", complaints)
    own = spec.question()
    asked_for = usable if own is None else [replace(each, words=own) for each in _by_picture(usable)]
    return list(islice(asked_for, None if spec.predictions else spec.limit)), len(every) - len(usable)


def given_answers(spec: EvaluationSpec, path: Path, questions: Sequence[Question]) -> Iterator[tuple[Question, Said]]:
    """The answers in a prediction's file, each with its question, and the truth that stands beside it or the dataset's.

    Raises `InvalidInput` that names the line which is no prediction, or is about another dataset's picture.
    """
    known = {question.picture: question for question in _by_picture(questions)}
    with path.open("rb") as file:
        lines = (_prediction(line, f"{path.name}:{number}") for number, line in enumerate(file, 1) if line.strip())
        chosen = (each for each in lines if not spec.splits or each["split"] in spec.splits)
        for number, line in enumerate(islice(chosen, spec.limit), 1):
            truth = None if line["truth"] is None else parse_answer(line["truth"])
            if truth is not None and not _is_of_boxes(truth):
                continue  # it is left out of the dataset too, and counted there
            of_picture = known.get(line["picture"])
            if of_picture is None:
                what, fix = f"the dataset has no picture {line['picture']}", "give the dataset that was predicted"
                raise InvalidInput("The predictions are of another dataset", [Complaint(line["where"], what, fix)])
            about = {"number": number, "words": line["question"], "split": line["split"]}
            yield replace(of_picture, truth=of_picture.truth if truth is None else truth, **about), line["said"]


# --- the dataset ----------------------------------------------------------------------------------------------


def _samples(spec: EvaluationSpec, context: Context) -> Iterator[Asked]:
    """With their own questions and answers, which a question of the specification's would take away."""
    try:
        yield from Dataset(PredictionSpec(dataset=spec.dataset, splits=spec.splits), context).samples()
    except InvalidInput as error:
        if any(complaint.where == "/spec/prompt" for complaint in error.complaints):  # pictures alone
            what, fix = "it is not what a conversion made: nothing says what is right", "convert labelled pictures"
            raise InvalidInput("There is no truth", [Complaint("/spec/dataset", what, fix)]) from error
        raise


def _question(asked: Asked) -> Question:
    truth = parse_answer(asked.truth or "")
    return Question(asked.number, asked.picture, asked.path, asked.question, asked.split, truth)


def _is_of_boxes(truth: Answer) -> bool:
    """Also where it says that there is nothing."""
    return bool(truth.boxed) or not (truth.objects or Note.NOTHING_FOUND in truth.notes)


def _without_boxes(questions: Sequence[Question]) -> Iterator[Complaint]:
    fix = "convert it with boxes as answers"
    if not questions:
        yield Complaint("/spec/dataset", "it has no questions with answers", fix)
    for question in questions[:_SHOWN]:
        yield Complaint(f"sample {question.number}, {question.picture}", "its answer is no list of boxes", fix)


def _by_picture(questions: Sequence[Question]) -> list[Question]:
    """One for each picture in a row, with all that its answers name, once each."""
    together = []
    for number, (_, group) in enumerate(groupby(questions, key=lambda question: question.picture), 1):
        same = list(group)
        objects = {(each.label, each.box.corners): each for one in same for each in one.truth.boxed}
        together.append(replace(same[0], number=number, truth=Answer(tuple(objects.values()))))
    return together


# --- a prediction's file --------------------------------------------------------------------------------------


def _prediction(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        told = orjson.loads(line)
        about = {name: told[name] for name in ("picture", "split", "question", "truth")}
        return {**about, "where": where, "said": _said(told)}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        fix = "give the file that a prediction made"
        raise InvalidInput("The predictions cannot be read", [Complaint(where, "it is no prediction", fix)]) from error


def _said(told: Mapping[str, Any]) -> Said:
    if "error" in told:
        return Said(error=str(told["error"]["message"]))
    answer = told["answer"]
    size = answer["pictures"][0]
    return Said(str(answer["text"]), str(answer["finish_reason"]), (int(size["width"]), int(size["height"])))
