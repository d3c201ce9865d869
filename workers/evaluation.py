"""The evaluation job: answers about the pictures of a dataset beside the truth that it has, and how well they do.

1. the questions with their truth   2. the answers, a model's or given ones   3. each question is judged
4. the figures, a report, a line for every question, a table of classes, and a gallery of the worst
"""

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import torch
from PIL import Image

from control.settings import load_settings
from vlyard.errors import Complaint, InvalidInput, OutOfMemory
from vlyard.formats.answer import parse_answer
from vlyard.formats.box import Box
from vlyard.formats.gallery import Exhibit, draw_gallery
from vlyard.jobs.evaluation import CLASSES, GALLERY, PICTURES, REPORT, EvaluationResult, EvaluationSpec
from vlyard.jobs.inference import ModelUsed
from workers.asking import Asker, Models, own_models, said_about
from workers.context import Context
from workers.qwen.grounding.confidence import box_confidences
from workers.qwen.grounding.figures import COLUMNS, Evaluated, Outcome, evaluated
from workers.qwen.grounding.objects import Naming, Thing, things
from workers.qwen.grounding.scoring import THRESHOLDS, Judged
from workers.truths import Question, Said, given_answers, questions_of

_SHOWN = 3  # complaints of an error


def run(spec: EvaluationSpec, context: Context) -> EvaluationResult:
    """Evaluate with one of this process's models. Raises `InvalidInput`, `RefusedArchive` and `OutOfMemory`."""
    if not torch.cuda.is_available():
        torch.set_num_threads(load_settings().cpu_threads)
    return evaluate(spec, context, own_models())


def evaluate(spec: EvaluationSpec, context: Context, models: Models) -> EvaluationResult:
    """The same with these models. Where there is nothing to measure it raises `InvalidInput` and loads no model."""
    context.progress(None, "fetching the dataset")
    questions, left_out = questions_of(spec, context)
    if left_out:
        context.log(f"{left_out} samples are left out: their own answers are no boxes")
    answers, used = _answers(spec, context, models, questions)
    reviewed = [Review(question, said, _outcome(spec, question, said)) for question, said in answers]
    if not any(review.said.text is not None for review in reviewed):
        complaints = [Complaint(each.question.picture, str(each.said.error)) for each in reviewed[:_SHOWN]]
        raise InvalidInput("There is no answer to measure", complaints)
    context.progress(None, "counting")
    found = evaluated([review.outcome for review in reviewed], spec)
    outputs = _published(spec, context, found, reviewed)
    return found.result.model_copy(update={"left_out": left_out, "model": used, "artefacts": outputs})


@dataclass(frozen=True)
class Review:
    """A question, its answer and what that is worth."""

    question: Question
    said: Said
    outcome: Outcome


def _outcome(spec: EvaluationSpec, question: Question, said: Said) -> Outcome:
    naming = Naming(spec.aliases, spec.ignore_case)
    truth = things(question.truth, naming)
    if said.text is None:
        return Outcome(Judged(truth, (), spec.ignore_labels))
    answer = parse_answer(said.text)
    found = things(answer, naming, said.confidences)
    return Outcome(Judged(truth, found, spec.ignore_labels), said.size, answer, said.finish_reason)


# --- asking ---------------------------------------------------------------------------------------------------


def _answers(
    spec: EvaluationSpec, context: Context, models: Models, questions: Sequence[Question]
) -> tuple[Sequence[tuple[Question, Said]], ModelUsed | None]:
    if spec.predictions is not None:
        return list(given_answers(spec, context.input(spec.predictions), questions)), None
    with models.open(spec, context) as asker:
        with ThreadPoolExecutor(asker.at_once, "evaluation") as threads:
            told = []
            for said in threads.map(partial(_ask, spec, context, asker), questions):
                told.append(said)
                context.progress(len(told) / len(questions), f"{len(told)} of {len(questions)} questions")
        return list(zip(questions, told, strict=True)), asker.used


def _ask(spec: EvaluationSpec, context: Context, asker: Asker, question: Question) -> Said:
    context.check()
    try:
        said = said_about(spec, question.words, [question.given()])
        answer, [size] = asker.hear(spec, said, scored=spec.confidence == "probability")
    except (InvalidInput, OutOfMemory) as error:  # the question's own: the others go on
        return Said(error=str(error))
    sure = None if answer.pieces is None else box_confidences(answer.text, answer.pieces)
    return Said(answer.text, answer.finish_reason, (size.width, size.height), sure)


# --- what comes of it -----------------------------------------------------------------------------------------


def _published(spec: EvaluationSpec, context: Context, found: Evaluated, reviewed: Sequence[Review]) -> dict[str, UUID]:
    folder = context.folder
    report, lines, table, sheet = (
        folder / name for name in ("report.json", "pictures.jsonl", "classes.csv", "gallery.png")
    )
    report.write_bytes(orjson.dumps(found.report, option=orjson.OPT_INDENT_2))
    with lines.open("wb") as file:
        for review in reviewed:
            file.write(orjson.dumps(_line(review), option=orjson.OPT_APPEND_NEWLINE))
    with table.open("w", encoding="utf-8", newline="") as file_of_table:
        columns = csv.DictWriter(file_of_table, COLUMNS)
        columns.writeheader()
        columns.writerows(found.rows)
    outputs = {
        REPORT: context.publish(report, "application/json"),
        PICTURES: context.publish(lines, "application/x-ndjson"),
        CLASSES: context.publish(table, "text/csv"),
    }
    exhibits = list(_exhibits(reviewed, spec.gallery))
    if exhibits:
        draw_gallery(exhibits).save(sheet)
        outputs[GALLERY] = context.publish(sheet, "image/png")
    return outputs


def _line(review: Review) -> dict[str, Any]:
    question, judged, answer = review.question, review.outcome.judged, review.outcome.answer
    pairs = judged.pairs[THRESHOLDS[0]]
    return {
        "sample": question.number,
        "picture": question.picture,
        "split": question.split,
        "question": question.words,
        "size": review.said.size,
        "truth": [_told(thing) for thing in judged.truth],
        "answer": review.said.text,
        "objects": [{**_told(thing), "confidence": thing.confidence} for thing in judged.found],
        "matches": [pair._asdict() for pair in pairs],
        "true_positives": len(pairs),
        "false_positives": len(judged.found) - len(pairs),
        "false_negatives": len(judged.truth) - len(pairs),
        "mean_iou": judged.tally(THRESHOLDS[0]).mean_iou,
        "notes": [note.value for note in answer.notes] if answer else [],
        "finish_reason": review.said.finish_reason,
        "error": review.said.error,
    }


def _told(thing: Thing) -> dict[str, Any]:
    """In the model's own numbers, which are whole; what lies between them stays as it is."""
    corners = [int(each) if each == int(each) else each for each in thing.corners]
    return {"label": thing.label, "bbox_2d": corners}


def _exhibits(reviewed: Sequence[Review], most: int) -> Iterator[Exhibit]:
    """The worst of the pictures that can be seen."""
    shown = 0
    for review in sorted(reviewed, key=_badness, reverse=True):
        if shown == most:
            return
        try:
            picture = review.question.look()
        except InvalidInput:
            continue  # it is told in the lines as unanswered
        shown += 1
        yield _exhibit(review, picture)


def _badness(review: Review) -> tuple[float, int, float]:
    """The most of the picture's objects and boxes that are wrong, then the most of them, then the worst overlap."""
    tally = review.outcome.judged.tally(THRESHOLDS[0])
    wrong = tally.truth + tally.found - 2 * tally.right
    return (1 - tally.f1 if wrong else 0.0), wrong, -tally.mean_iou


def _exhibit(review: Review, picture: Image.Image) -> Exhibit:
    judged = review.outcome.judged
    tally = judged.tally(THRESHOLDS[0])
    caption = (
        f"{review.question.number}: {Path(review.question.picture).name}",
        f"{tally.right} right, {tally.found - tally.right} false, {tally.truth - tally.right} missed",
    )
    return Exhibit(picture, _boxes(judged.truth), _boxes(judged.found), caption)


def _boxes(those: Sequence[Thing]) -> list[tuple[Box, str]]:
    return [(Box.from_thousand(thing.corners), thing.label) for thing in those]
