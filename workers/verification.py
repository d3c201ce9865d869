"""The verification job: what an export is, proved beside the model that it was made of."""

from collections.abc import Sequence
from pathlib import Path

import torch

from control.settings import Settings, load_settings
from vlyard.demo.shapes import draw_dataset
from vlyard.files import ArtefactKind
from vlyard.formats.archive import unpack
from vlyard.jobs.conversion import DEFAULT_PROMPT
from vlyard.jobs.evaluation import EvaluationSpec
from vlyard.jobs.verification import REPORT, Checked, VerificationResult, VerificationSpec
from workers.asking import see
from workers.context import Context
from workers.models import resolve
from workers.qwen.checkpoint import CONFIG
from workers.qwen.manifest import read_manifest
from workers.qwen.verifying.answers import Question
from workers.qwen.verifying.verify import Made, Verified, verify
from workers.truths import questions_of

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
    with resolve(spec.model, spec.adapter, 1, context, settings) as source:
        made = Made(export, source.folder, source.adapter)
        questions = _questions(spec, made, context)
        found = verify(made, questions, work, told=context.progress, check=context.check)
    result = _result(found, len(questions))
    report = context.folder / "report.json"
    report.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    return result.model_copy(update={"artefacts": {REPORT: context.publish(report, "application/json")}})


def _export(spec: VerificationSpec, context: Context) -> Path:
    """The folder of the export, out of an archive where it is in one."""
    path = context.input(spec.export)
    if context.inputs[spec.export].kind is ArtefactKind.TREE:
        return path
    folder = context.folder / "export"
    unpack(path, folder)
    return next((config.parent for config in sorted(folder.rglob(CONFIG))), folder)


def _questions(spec: VerificationSpec, made: Made, context: Context) -> Sequence[Question]:
    if spec.dataset is not None:
        evaluation = EvaluationSpec(dataset=spec.dataset, limit=spec.samples)
        found, _ = questions_of(evaluation, context)
        return [Question(each.look(), each.words, each.picture) for each in found]
    manifests = [read_manifest(folder) for folder in (made.adapter, made.base) if folder]
    words = next((each.prompt for each in manifests if each and each.prompt), DEFAULT_PROMPT)
    pictures = draw_dataset(context.folder / "drawn", spec.samples, _SEED)
    return [Question(see(path, path.name), words, f"drawn picture {path.name}") for path in pictures]


def _result(found: Verified, samples: int) -> VerificationResult:
    return VerificationResult(
        checks=tuple(Checked(name=right.name, detail=right.detail) for right in found.checks),
        parameters=found.parameters,
        dtype=found.dtype,
        samples=samples,
        logits_difference=found.judged.logits,
        same_answers=found.judged.same,
        boxes=found.judged.boxes,
        mean_iou=found.judged.mean_iou,
    )
