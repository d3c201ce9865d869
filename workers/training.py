"""The training job: from a dataset and a base to a tuned model that says how it came to be.

It runs in a process of its own. Checkpoints are handed over as they are made, while it goes on, and the next attempt
begins from the last of them; the numbers of every step go to a file, and once a second at most to whoever watches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from typing import Any
from uuid import UUID

import orjson
import torch

from control.settings import Settings, load_settings
from vlyard.errors import Complaint, InvalidInput, WorkerStopping
from vlyard.formats.archive import unpack
from vlyard.jobs.importing import HUB
from vlyard.jobs.training import CURVE, METRICS, MODEL, RECIPE, UNUSABLE, TrainingResult, TrainingSpec
from workers.context import Context
from workers.curves import draw_curves
from workers.keeping import Keeping
from workers.models import origin, whole
from workers.qwen.manifest import Manifest, as_its_base, write_manifest
from workers.qwen.training.learning import learn
from workers.qwen.training.plan import Learned, Listener, Plan, Step
from workers.qwen.warm import Source
from workers.trees import fetch_tree

_STEPS = "metrics.jsonl"
_LIBRARIES = ("accelerate", "peft", "tokenizers", "torch", "transformers", "vlyard")


def run(spec: TrainingSpec, context: Context) -> TrainingResult:
    """Train. Raises `InvalidInput`, `RefusedArchive`, `OutOfMemory`, and `WorkerStopping` where it was told to stop."""
    settings = load_settings()
    if not torch.cuda.is_available():
        torch.set_num_threads(settings.cpu_threads)
    return train(spec, context, settings)


def train(spec: TrainingSpec, context: Context, settings: Settings) -> TrainingResult:
    """The same with these settings."""
    context.progress(None, "fetching the dataset")
    dataset = _dataset(spec, context)
    with whole(spec.model, context, settings) as source:
        spec = as_its_base(spec, source.folder)
        plan = Plan(
            spec=spec,
            base=source.folder,
            known_as=_known_as(str(spec.model)),
            dataset=dataset,
            output=_made(context.folder / "learned"),
            resume=_checkpoint(context),
            halved=min(context.shortages, 1),
        )
        diary = Diary(context, context.folder / _STEPS)
        if plan.resume is not None:
            diary.go_on(plan.resume / _STEPS)
        context.progress(None, "reading the samples")
        with Keeping(context, spec.keep_checkpoints) as keeping:

            def saved(folder: Path, step: int) -> None:
                diary.copy_to(folder)
                keeping.keep(folder, step)

            learned = learn(plan, Listener(diary.step, saved, context.log, context.stopping))
        if learned.stopped:
            raise WorkerStopping
        facts = _facts(spec, source, learned)
        if (plan.output / MODEL).is_dir():
            write_manifest(plan.output / MODEL, _manifest(spec, context, source, learned, facts))
        if learned.lost is not None:
            raise _lost(context, plan, learned)
        context.progress(None, "storing the model")
        return TrainingResult(**facts, artefacts=_artefacts(context, plan, learned, diary))


@dataclass
class Diary:
    """What every step told: a line in a file for each, and the latest for whoever watches."""

    context: Context
    path: Path

    def go_on(self, earlier: Path) -> None:
        """From what an earlier attempt wrote up to its checkpoint."""
        copyfile(earlier, self.path)

    def step(self, step: Step) -> None:
        told = step.model_dump(mode="json", exclude_none=True)
        with self.path.open("ab") as file:
            file.write(orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))
        text = f"step {step.step} of {step.steps}, loss {step.loss:.3f}"
        self.context.note(told)
        self.context.progress(step.step / step.steps, text, step.samples_per_second, "samples")

    def copy_to(self, checkpoint: Path) -> None:
        """What was told so far, for whoever goes on from there."""
        self.path.touch()
        copyfile(self.path, checkpoint / _STEPS)

    def steps(self) -> Sequence[Step]:
        with self.path.open("rb") as file:
            return [Step.model_validate_json(line) for line in file]


def _known_as(model: str) -> str | None:
    return model.removeprefix(HUB).partition("@")[0] if model.startswith(HUB) else None


def _dataset(spec: TrainingSpec, context: Context) -> Path:
    path = context.input(spec.dataset)
    if path.is_dir():
        return path
    folder = context.folder / "dataset"
    unpack(path, folder)
    return folder


def _checkpoint(context: Context) -> Path | None:
    if context.resume is None:
        return None
    context.progress(None, f"fetching the checkpoint of step {context.resume.step}")
    folder = context.folder / "resumed"
    fetch_tree(context.store, context.resume.tree, folder, context.check)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _artefacts(context: Context, plan: Plan, learned: Learned, diary: Diary) -> dict[str, UUID]:
    curve = context.folder / "curve.png"
    draw_curves(diary.steps(), curve)
    made = {
        MODEL: context.publish_tree(plan.output / MODEL, MODEL),
        RECIPE: context.publish_tree(plan.output / RECIPE, RECIPE),
        METRICS: context.publish(diary.path, "application/x-ndjson"),
        CURVE: context.publish(curve, "image/png"),
    }
    if learned.unusable is not None:
        made[UNUSABLE] = context.publish(learned.unusable, "application/x-ndjson", "unusable.jsonl")
    return made


def _lost(context: Context, plan: Plan, learned: Learned) -> InvalidInput:
    """What to say where the numbers ended; the model of the last good checkpoint stays."""
    fix = "lower it, raise warmup, or compute in fp32 or bf16"
    if (plan.output / MODEL).is_dir():
        good = context.rescue_tree(plan.output / MODEL, MODEL)
        fix += f"; the model of step {learned.steps}, the last good checkpoint, is the artefact {good}"
    return InvalidInput("The training got lost", [Complaint("/spec/learning_rate", str(learned.lost), fix)])


def _facts(spec: TrainingSpec, source: Source, learned: Learned) -> dict[str, Any]:
    return {
        "base": origin(spec.model, source),
        "method": spec.method,
        "samples": learned.samples,
        "held_out": learned.held_out,
        "unusable": learned.unusable_count,
        "steps": learned.steps,
        "epochs": learned.epochs,
        "loss": learned.loss,
        "held_out_loss": learned.held_out_loss,
        "scores": learned.scores,
        "stopped_early": learned.stopped_early,
        "best_step": learned.best_step,
        "resumed_at": learned.resumed_at,
        "micro_batch": learned.micro_batch,
        "accumulation": learned.accumulation,
        "parameters": learned.parameters,
        "trained_parameters": learned.trained_parameters,
        "precision": learned.precision,
        "device": learned.device,
        "seconds": learned.seconds,
        "samples_per_second": learned.samples_per_second,
        "tokens_per_second": learned.tokens_per_second,
        "peak_bytes": learned.peak_bytes,
    }


def _manifest(
    spec: TrainingSpec, context: Context, source: Source, learned: Learned, facts: Mapping[str, Any]
) -> Manifest:
    metrics = TrainingResult(**facts).model_dump(mode="json", exclude={"artefacts", "model"})
    return Manifest(
        base=origin(spec.model, source),
        method=spec.method,
        prompt=learned.prompt,
        system=spec.system,
        chat_template=spec.chat_template,
        chat_template_sha256=learned.template_sha256,
        min_pixels=learned.min_pixels,
        max_pixels=learned.max_pixels,
        dataset=str(spec.dataset),
        dataset_sha256=context.inputs[spec.dataset].sha256,
        spec=spec.model_dump(mode="json"),
        metrics=metrics,
        libraries={name: version(name) for name in _LIBRARIES},
        seed=spec.seed,
    )
