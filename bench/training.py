"""Samples a second while a model is tuned, from the sixth step to the last.

The baselines do the same steps on the same data with the same model: transformers' Trainer with the collator that
every tutorial has, and TRL's SFTTrainer with prompts and completions. That they learn the same is seen by their losses,
from the first to the last of every round. The third figure is what checkpoints cost, as time of the whole training,
beside one that makes none. The fourth is what a training costs as a job, whose checkpoints are stored and whose numbers
are told, as time of its steps, beside one that makes no checkpoint and tells nobody.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch
from PIL import Image

from bench.figure import Figure, in_turns
from bench.stage import Stage
from vlyard import Client
from vlyard.demo.shapes import draw_dataset
from vlyard.formats.convert import convert
from vlyard.formats.converted import open_converted
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.training import TrainingSpec
from workers.qwen.demo.architecture import DEMO, build_untrained
from workers.qwen.loading import load_model
from workers.qwen.training.learning import learn
from workers.qwen.training.plan import Learned, Listener, Plan, Step

_PICTURES, _BATCH, _STEPS, _WARM = 320, 16, 40, 5
_LONG = 100  # steps of a training as a job: its checkpoints are four times as many as they usually are
_RATE = 1e-3
_ALIKE, _TOGETHER = 0.1, 5  # of the mean loss of so many steps


@dataclass
class Clock:
    """When steps ended, and what they said."""

    moments: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def tick(self, loss: float) -> None:
        self.moments.append(time.perf_counter())
        self.losses.append(loss)

    @property
    def samples_a_second(self) -> float:
        return _BATCH * (_STEPS - _WARM) / (self.moments[-1] - self.moments[_WARM - 1])

    @property
    def curve(self) -> Sequence[float]:
        """The mean losses of a few steps each, from the first to the last."""
        return [statistics.mean(self.losses[at : at + _TOGETHER]) for at in range(0, _STEPS, _TOGETHER)]


def measure(stage: Stage) -> Sequence[Figure]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker has it
    curves: dict[str, list[Sequence[float]]] = {}  # one of each round
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw_dataset(folder / "drawn", _PICTURES, 5, side=128)
        convert(folder / "drawn", folder / "data", ConversionOptions(), _unheard)
        build_untrained(folder / "base", seed=1, shape=DEMO)

        def speed(way: Callable[[Path], Clock]) -> Callable[[], float]:
            def measured() -> float:
                clock = way(folder)
                curves.setdefault(way.__name__, []).append(clock.curve)
                return clock.samples_a_second

            return measured

        ours, plain, trl = in_turns(speed(_ours), speed(_plain), speed(_trl))
        bare, kept = in_turns(lambda: _seconds(folder, None), lambda: _seconds(folder, _STEPS // 4))
        with _job(stage, folder) as job:
            alone, queued = in_turns(lambda: _long(folder), job)
    torch.set_num_threads(threads)
    _expect_alike(curves.pop("_plain"), curves)
    what = "samples/s"
    return [
        Figure(
            "tuning all weights", what, "more", ours, "transformers' Trainer, a straightforward collator", plain, 1.0
        ),
        Figure("tuning all weights", what, "more", ours, "TRL's SFTTrainer", trl),
        Figure("a training with four checkpoints", "s", "less", kept, "without checkpoints", bare, 1.03),
        Figure("steps of a job with two checkpoints", "s", "less", queued, "bare, without checkpoints", alone, 1.03),
    ]


def _expect_alike(due: Sequence[Sequence[float]], found: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Raises `AssertionError` where somebody learned something else, in whatever round and at whatever step."""
    for name, rounds in found.items():
        for curve, other in zip(rounds, due, strict=True):
            apart = max(abs(one - plain) / plain for one, plain in zip(curve, other, strict=True))
            assert apart < _ALIKE, (name, curve, other)


def _spec(**more: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({
        "dataset": uuid4(), "method": "full", "parts": ["language", "merger", "vision"], "precision": "fp32",
        "gradient_checkpointing": False, "held_out": None, "max_steps": _STEPS, "micro_batch": _BATCH,
        "accumulation": 1, "learning_rate": _RATE, "schedule": "constant", "warmup": 0, "checkpoint_steps": 10**6,
        **more,
    })  # fmt: skip


def _ours(folder: Path) -> Clock:
    clock = Clock()
    _learn(folder, _spec(), lambda step: clock.tick(step.loss))
    return clock


def _learn(folder: Path, spec: TrainingSpec, told: Callable[[Step], None], *, checkpoints: bool = False) -> Learned:
    with TemporaryDirectory(dir=folder) as output:
        listener = Listener(told, saved=_unheard, say=_unheard, stopping=lambda: False)
        paths = {"base": folder / "base", "dataset": folder / "data", "output": Path(output)}
        return learn(Plan(spec=spec, checkpoints=checkpoints, **paths), listener)


def _unheard(*_: object) -> None:
    """Nobody wants to know."""


def _seconds(folder: Path, every: int | None) -> float:
    steps: list[float] = []
    began = time.perf_counter()
    spec = _spec(checkpoint_steps=every or _STEPS)
    _learn(folder, spec, lambda step: steps.append(step.loss), checkpoints=every is not None)
    return time.perf_counter() - began


def _long(folder: Path) -> float:
    return _learn(folder, _spec(max_steps=_LONG), _unheard).seconds


@contextmanager
def _job(stage: Stage, folder: Path) -> Iterator[Callable[[], float]]:
    """The same as jobs of a running VLyard: how long the steps of one take."""
    own = {"VLYARD_MODELS_DIR": str(folder)}
    with stage.yard("api", "dispatcher", "asker", **own) as yard, Client(yard.api, yard.key) as client:
        dataset = client.upload_tree(folder / "data").id
        spec = _spec(dataset=dataset, model="base", max_steps=_LONG, checkpoint_steps=_LONG // 2)
        yield lambda: client.run(spec, timeout=600).seconds


# --- as others do it ------------------------------------------------------------------------------------------


def _rows(folder: Path) -> list[dict[str, Any]]:
    data = open_converted(folder / "data")
    return [
        {"image": str(folder / "data" / each.picture), "question": each.question, "answer": each.answer}
        for each in data.samples()
    ]


def _arguments() -> dict[str, Any]:
    return {
        "per_device_train_batch_size": _BATCH, "max_steps": _STEPS, "learning_rate": _RATE, "logging_steps": 1,
        "lr_scheduler_type": "constant", "weight_decay": 0.0, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "seed": 0, "use_cpu": True, "remove_unused_columns": False,
        "dataloader_pin_memory": False, "optim": "adamw_torch_fused",
    }  # fmt: skip


def _watch(trainer: Any, clock: Clock) -> None:
    """Have the losses told to the clock and not to the terminal."""
    from transformers import PrinterCallback, TrainerCallback

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:  # noqa: ARG002
            if logs and "loss" in logs:
                clock.tick(float(logs["loss"]))

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch())


def _plain(folder: Path) -> Clock:
    """transformers' Trainer as tutorials use it: the collator opens pictures, and asks the processor for everything."""
    from transformers import Trainer, TrainingArguments

    loaded, clock = load_model(folder / "base"), Clock()
    processor = loaded.processor
    processor.tokenizer.padding_side = "right"

    def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        talks = [_talk(row) for row in rows]
        asked = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
        batch = dict(processor.apply_chat_template(talks, **asked))
        labels = batch["input_ids"].clone()
        for at, talk in enumerate(talks):
            question = processor.apply_chat_template(talk[:1], add_generation_prompt=True, **asked)["input_ids"]
            labels[at, : question.shape[1]] = -100
        batch["labels"] = labels.masked_fill(batch["attention_mask"] == 0, -100)
        return batch

    with TemporaryDirectory(dir=folder) as output:
        arguments = TrainingArguments(output, **_arguments())
        rows: Any = _rows(folder)
        trainer = Trainer(loaded.model.train(), arguments, data_collator=collate, train_dataset=rows)
        _watch(trainer, clock)
        trainer.train()
    return clock


def _talk(row: dict[str, Any]) -> list[dict[str, Any]]:
    picture = {"type": "image", "image": Image.open(row["image"]).convert("RGB")}
    return [
        {"role": "user", "content": [picture, {"type": "text", "text": row["question"]}]},
        {"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]},
    ]


def _trl(folder: Path) -> Clock:
    """TRL's SFTTrainer on prompts and completions, so that it learns the answers alone."""
    from datasets import Dataset  # type: ignore[import-untyped]
    from datasets import Image as Pictures
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    loaded, clock = load_model(folder / "base"), Clock()
    rows = _rows(folder)
    columns = {
        "images": [[row["image"]] for row in rows],
        "prompt": [[{"role": "user", "content": row["question"]}] for row in rows],
        "completion": [[{"role": "assistant", "content": row["answer"]}] for row in rows],
    }
    data = Dataset.from_dict(columns).cast_column("images", [Pictures()])
    with TemporaryDirectory(dir=folder) as output:
        arguments = SFTConfig(
            output, **_arguments(), max_length=None, completion_only_loss=True, gradient_checkpointing=False, bf16=False
        )
        trainer = SFTTrainer(loaded.model.train(), arguments, train_dataset=data, processing_class=loaded.processor)
        _watch(trainer, clock)
        trainer.train()
    return clock
