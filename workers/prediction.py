"""The prediction job: a question about every picture of a dataset, the answers in one file.

Many questions are with the engine at a time, so that its batches are full; the answers are written in the samples'
order. A sample that cannot be asked about has a line that says why, and harms no other.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError

from vlyard.errors import Complaint, InvalidInput, OutOfMemory
from vlyard.jobs.inference import Answer, ModelUsed
from vlyard.jobs.prediction import PREDICTIONS, PredictionResult, PredictionSpec
from workers.asking import Asker, Models, own_models, said_about
from workers.context import Context
from workers.samples import Asked, Dataset
from workers.sight import Given

_FILE, _MEDIA_TYPE = "predictions.jsonl", "application/x-ndjson"


def run(spec: PredictionSpec, context: Context) -> PredictionResult:
    """Predict, or gather what shards have predicted. Raises `InvalidInput`, `RefusedArchive` and `OutOfMemory`."""
    return gather(spec.parts, context) if spec.parts else predict(spec, context, own_models())


def predict(spec: PredictionSpec, context: Context, models: Models) -> PredictionResult:
    """Ask one of these models about every sample, or every sample of a shard.

    Raises `InvalidInput` where none could be asked about; a shard of which that is true is told by whoever gathers
    them all, since the others may have what it lacks.
    """
    context.progress(None, "fetching the dataset")
    dataset = Dataset(spec, context)
    total = sum(1 for _ in dataset.samples())
    account = Account()
    if not total and not spec.gathered:
        account.require_answers()  # before a model is loaded
    with models.open(spec, context) as asker, (context.folder / _FILE).open("wb") as file:
        if spec.gathered:  # whoever gathers the shards tells it on
            file.write(orjson.dumps(asker.used.model_dump(mode="json"), option=orjson.OPT_APPEND_NEWLINE))
        for line in _lines(dataset.samples(), partial(_line, spec, context, asker), asker.at_once):
            account.add(line)
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            context.progress(account.samples / total, f"{account.samples} of {total} samples")
    if not spec.gathered:
        account.require_answers()
    return account.result(context.publish(context.folder / _FILE, _MEDIA_TYPE), asker.used)


def gather(parts: Iterable[UUID], context: Context) -> PredictionResult:
    """Put the files of shards together, in the samples' order."""
    context.progress(None, "gathering the shards")
    account = Account()
    files = [_read(context.input(part)) for part in parts]
    used = [_model_used(each) for each in files]
    with (context.folder / _FILE).open("wb") as file:
        for line in heapq.merge(*files, key=lambda line: line["sample"]):
            account.add(line)
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    account.require_answers()
    return account.result(context.publish(context.folder / _FILE, _MEDIA_TYPE), used[0])


@dataclass
class Account:
    """What the lines of a file add up to."""

    samples: int = 0
    answered: int = 0
    objects: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    first_complaints: list[Complaint] = field(default_factory=list)

    def add(self, line: dict[str, Any]) -> None:
        self.samples += 1
        answer = line.get("answer")
        if answer is None:
            if len(self.first_complaints) < 3:
                self.first_complaints.append(Complaint(line["picture"], line["error"]["message"]))
            return
        self.answered += 1
        self.objects += len(answer["objects"])
        self.prompt_tokens += answer["prompt_tokens"]
        self.completion_tokens += answer["completion_tokens"]
        self.finish_reasons[answer["finish_reason"]] += 1

    def require_answers(self) -> None:
        """Raises `InvalidInput` where there was no sample, or none of them could be asked about."""
        if not self.samples:
            what, fix = "it has no pictures", "give a directory, a zip or a tar with pictures in it"
            raise InvalidInput("There is nothing to ask about", [Complaint("/spec/dataset", what, fix)])
        if not self.answered:
            raise InvalidInput("No sample could be asked about", self.first_complaints)

    def result(self, file: UUID, used: ModelUsed) -> PredictionResult:
        return PredictionResult(
            samples=self.samples,
            answered=self.answered,
            unanswered=self.samples - self.answered,
            objects=self.objects,
            finish_reasons=dict(sorted(self.finish_reasons.items())),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            model=used,
            artefacts={PREDICTIONS: file},
        )


def _lines(asked: Iterator[Asked], line: Callable[[Asked], dict[str, Any]], at_once: int) -> Iterator[dict[str, Any]]:
    """The samples' lines in their order, so many of them being made at a time."""
    with ThreadPoolExecutor(at_once, "prediction") as threads:
        begun: deque[Future[dict[str, Any]]] = deque()
        try:
            for each in asked:
                begun.append(threads.submit(line, each))
                if len(begun) == at_once:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def _line(spec: PredictionSpec, context: Context, asker: Asker, asked: Asked) -> dict[str, Any]:
    about = {"sample": asked.number, "picture": asked.picture, "split": asked.split, "question": asked.question}
    try:
        answer = _answer(spec, context, asker, asked)
    except (InvalidInput, OutOfMemory) as error:  # the sample's own: the others go on
        return {**about, "truth": asked.truth, "error": {"code": error.code, "message": str(error)}}
    return {**about, "truth": asked.truth, "answer": answer.model_dump(mode="json")}


def _answer(spec: PredictionSpec, context: Context, asker: Asker, asked: Asked) -> Answer:
    context.check()
    if asked.path is None:
        what, fix = "the path leads out of the dataset", "convert again, with the pictures in the dataset"
        raise InvalidInput("The picture cannot be read", [Complaint(asked.picture, what, fix)])
    return asker.ask(spec, said_about(spec, asked.question, [Given(asked.path, asked.picture)]))


def _model_used(lines: Iterator[dict[str, Any]]) -> ModelUsed:
    """What a shard's file begins with."""
    try:
        return ModelUsed.model_validate(next(lines, None))
    except ValidationError as error:
        raise InvalidInput("a shard's file does not say which model answered: predict again") from error


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield orjson.loads(line)
            except ValueError as error:
                raise InvalidInput(f"{path.name}:{number} is no prediction: {error}") from error
