"""The check before a training: everything is read and tokenised as the training will, and nothing is learned.

It fails where the training would: under the policy `refuse` because of one sample that cannot be learned, which its
log lists with the others; under `quarantine` only where nothing can be learned at all.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from control.settings import Settings, load_settings
from vlyard.formats.archive import unpack
from vlyard.jobs.training_check import PREVIEW, SHEET, SURVEY, UNUSABLE, TrainingCheckResult, TrainingCheckSpec
from workers.context import Context
from workers.models import whole
from workers.qwen.manifest import as_its_base
from workers.qwen.training.preparing import expect_learnable, open_processor, prepare
from workers.qwen.training.survey import Survey

_JSON, _LINES = "application/json", "application/x-ndjson"
_LOGGED = 100  # samples


def run(spec: TrainingCheckSpec, context: Context) -> TrainingCheckResult:
    """Check a training. Raises `InvalidInput` and `RefusedArchive`."""
    return check(spec, context, load_settings())


def check(spec: TrainingCheckSpec, context: Context, settings: Settings) -> TrainingCheckResult:
    """The same with these settings."""
    context.progress(None, "fetching the dataset")
    dataset = _dataset(spec, context)
    with whole(spec.model, context, settings) as source:
        spec = as_its_base(spec, source.folder)
        processor = open_processor(source.folder)
        all_told = spec.model_copy(update={"policy": "quarantine"})

        def told(samples: int) -> None:
            context.progress(None, f"{samples} samples read")

        survey = Survey(spec, prepare(all_told, dataset, processor, told), source.folder)
        _log(survey, context)
        expect_learnable(spec, survey.prepared)
        return TrainingCheckResult(**survey.numbers(), artefacts=_artefacts(survey, context))


def _dataset(spec: TrainingCheckSpec, context: Context) -> Path:
    path = context.input(spec.dataset)
    if path.is_dir():
        return path
    folder = context.folder / "dataset"
    unpack(path, folder)
    return folder


def _log(survey: Survey, context: Context) -> None:
    """What a check that fails tells besides: it leaves no files."""
    for warning in survey.warnings():
        context.log(f"warning: {warning}")
    unusable = survey.prepared.unusable
    for each in unusable[:_LOGGED]:
        context.log(f"{each.sample}: {each.message} ({each.code})")
    if more := len(unusable[_LOGGED:]):
        context.log(f"and {more} more samples that cannot be learned")


def _artefacts(survey: Survey, context: Context) -> dict[str, UUID]:
    made = {
        SURVEY: context.publish(_written(context, "survey.json", [survey.report()]), _JSON),
        PREVIEW: context.publish(_written(context, "preview.json", [survey.preview()]), _JSON),
    }
    if (sheet := survey.sheet()) is not None:
        path = context.folder / "sheet.png"
        sheet.save(path)
        made[SHEET] = context.publish(path, "image/png")
    if survey.prepared.unusable:
        made[UNUSABLE] = context.publish(_written(context, "unusable.jsonl", survey.unusable()), _LINES)
    return made


def _written(context: Context, name: str, values: Iterable[Any]) -> Path:
    path = context.folder / name
    path.write_bytes(b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values))
    return path
