"""The check before a training: everything is tokenised, nothing is learned, and what cannot be learned is listed.

Unusable samples do not fail the check, whatever the policy: telling of them all is what it is for. It fails where
nothing can be learned: where the dataset is none, no sample of it is usable, or the model is no Qwen3-VL.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from control.settings import Settings, load_settings
from vlyard.formats.archive import unpack
from vlyard.jobs.training_check import PREVIEW, SURVEY, UNUSABLE, TrainingCheckResult, TrainingCheckSpec
from workers.context import Context
from workers.models import whole
from workers.qwen.training.preparing import open_processor, prepare
from workers.qwen.training.survey import Survey

_JSON, _LINES = "application/json", "application/x-ndjson"


def run(spec: TrainingCheckSpec, context: Context) -> TrainingCheckResult:
    """Check a training. Raises `InvalidInput` and `RefusedArchive`."""
    return check(spec, context, load_settings())


def check(spec: TrainingCheckSpec, context: Context, settings: Settings) -> TrainingCheckResult:
    """The same with these settings."""
    context.progress(None, "fetching the dataset")
    dataset = _dataset(spec, context)
    with whole(spec.model, context, settings) as source:
        processor = open_processor(source.folder)
        all_told = spec.model_copy(update={"policy": "quarantine"})

        def told(samples: int) -> None:
            context.progress(None, f"{samples} samples read")

        survey = Survey(spec, prepare(all_told, dataset, processor, told), source.folder)
        return TrainingCheckResult(**survey.numbers(), artefacts=_artefacts(survey, context))


def _dataset(spec: TrainingCheckSpec, context: Context) -> Path:
    path = context.input(spec.dataset)
    if path.is_dir():
        return path
    folder = context.folder / "dataset"
    unpack(path, folder)
    return folder


def _artefacts(survey: Survey, context: Context) -> dict[str, UUID]:
    made = {
        SURVEY: context.publish(_written(context, "survey.json", [survey.report()]), _JSON),
        PREVIEW: context.publish(_written(context, "preview.json", [survey.preview()]), _JSON),
    }
    if survey.prepared.unusable:
        made[UNUSABLE] = context.publish(_written(context, "unusable.jsonl", survey.unusable()), _LINES)
    return made


def _written(context: Context, name: str, values: Iterable[Any]) -> Path:
    path = context.folder / name
    path.write_bytes(b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values))
    return path
