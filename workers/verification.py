"""The verification job: what an export is, proved beside the model that it was made of."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import torch

from control.settings import Settings, load_settings
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import InvalidInput, RefusedArchive, UnreadablePicture
from vlyard.files import ArtefactKind
from vlyard.formats.archive import unpack
from vlyard.jobs.conversion import DEFAULT_PROMPT
from vlyard.jobs.evaluation import EvaluationSpec
from vlyard.jobs.export import ExportResult
from vlyard.jobs.importing import HUB
from vlyard.jobs.verification import REPORT, Checked, VerificationResult, VerificationSpec
from workers.context import Context
from workers.models import resolve
from workers.qwen.checkpoint import CONFIG
from workers.qwen.manifest import Manifest, read_manifest
from workers.qwen.verifying.answers import Question
from workers.qwen.verifying.llama import is_for_llama
from workers.qwen.verifying.verify import Made, Verified, verify, verify_for_llama
from workers.sight import see
from workers.truths import questions_of

# What a dataset that nobody chose for this may be: without boxes, without such a split, damaged.
_NOTHING_TO_ASK = (InvalidInput, RefusedArchive, UnreadablePicture)
_SEED = 11  # of the pictures that are drawn where nobody gave others


def run(spec: VerificationSpec, context: Context) -> VerificationResult:
    """Verify. Raises `VerificationFailed` that names what is wrong, `InvalidInput`, `OutOfMemory` and `Unavailable`."""
    settings = load_settings()
    if not torch.cuda.is_available():
        torch.set_num_threads(settings.cpu_threads)
    return verification(spec, context, settings)


def verification(spec: VerificationSpec, context: Context, settings: Settings) -> VerificationResult:
    """The same with these settings."""
    context.progress(None, "fetching the export")
    export = _export(spec, context)
    work = context.folder / "verifying"
    work.mkdir()
    with resolve(origin_of(spec, context), spec.adapter, 1, context, settings) as source:
        made = Made(export, source.folder, source.adapter, spec.dtype)
        questions = () if is_for_llama(export) else _questions(spec, made, context)
        if questions:
            found = verify(made, questions, work, told=context.progress, check=context.check)
        else:
            found = verify_for_llama(made, work, told=context.progress, check=context.check)
    result = _result(found, len(questions))
    report = context.folder / "report.json"
    report.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    return result.model_copy(update={"artefacts": {REPORT: context.publish(report, "application/json")}})


def origin_of(spec: VerificationSpec, context: Context) -> UUID | str:
    """The model, of a hub's in the revision that was exported: its branch may have moved since."""
    if spec.summary is None or not str(spec.model).startswith(HUB):
        return spec.model
    return ExportResult.model_validate_json(context.input(spec.summary).read_bytes()).base


def _export(spec: VerificationSpec, context: Context) -> Path:
    """The folder of the export, out of an archive where it is in one."""
    path = context.input(spec.export)
    if context.inputs[spec.export].kind is ArtefactKind.TREE:
        return path
    folder = context.folder / "export"
    unpack(path, folder)
    return next((config.parent for config in sorted(folder.rglob(CONFIG))), folder)


def _questions(spec: VerificationSpec, made: Made, context: Context) -> Sequence[Question]:
    """About the dataset that was given, or the one that the model learned from, or pictures that are drawn."""
    if spec.dataset is not None:
        return _about(EvaluationSpec(dataset=spec.dataset, limit=spec.samples), context)
    folders = [folder for folder in (made.adapter, made.base) if folder]
    manifests = [manifest for folder in folders if (manifest := read_manifest(folder))]
    for wanted in (wanted for each in manifests for wanted in _learned(each, spec, context)):
        with suppress(*_NOTHING_TO_ASK):
            return _about(wanted, context)
    words = next((each.prompt for each in manifests if each.prompt), DEFAULT_PROMPT)
    pictures = draw_dataset(context.folder / "drawn", spec.samples, _SEED)
    return [Question(see(path, path.name), words, f"drawn picture {path.name}") for path in pictures]


def _learned(manifest: Manifest, spec: VerificationSpec, context: Context) -> Iterator[EvaluationSpec]:
    """What was held out of what the model learned from, then all of that; nothing where it is not there any more."""
    with suppress(ValueError):
        dataset = UUID(manifest.dataset)
        if dataset in context.inputs:
            held_out = manifest.spec.get("held_out")
            for splits in ((str(held_out),), ()) if held_out else ((),):
                yield EvaluationSpec(dataset=dataset, limit=spec.samples, splits=splits)


def _about(wanted: EvaluationSpec, context: Context) -> Sequence[Question]:
    found, _ = questions_of(wanted, context)
    return [Question(each.look(), each.words, each.picture) for each in found]


def _result(found: Verified, samples: int) -> VerificationResult:
    judged = found.judged
    return VerificationResult(
        checks=tuple(Checked(name=right.name, detail=right.detail) for right in found.checks),
        parameters=found.parameters,
        dtype=found.dtype,
        samples=samples,
        logits_difference=judged.logits if judged else None,
        same_answers=judged.same if judged else 0,
        boxes=judged.boxes if judged else 0,
        mean_iou=judged.mean_iou if judged else None,
    )
