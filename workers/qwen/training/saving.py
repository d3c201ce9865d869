"""What a training leaves: the model as others load it."""

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from workers.qwen.loading import Model, Processor, first_without_numbers
from workers.qwen.training.plan import Plan
from workers.qwen.training.preparing import Prepared

_OF_THE_TRAINER = ("training_args.bin", "README.md")  # a pickle, and a card with a path of this machine


def save_model(trainer: Any, processor: Processor, plan: Plan, prepared: Prepared) -> None:
    """Write an adapter as PEFT saves it, or the whole checkpoint with everything that is needed to ask it.

    The checkpoint's processor has the pixel budget and the template that were trained with, for those who read no more
    than that. Called in every process that trains; the one that leads writes.
    """
    folder = plan.output / "model"
    trainer.save_model(str(folder))
    if not trainer.is_world_process_zero():
        return
    for name in _OF_THE_TRAINER:
        (folder / name).unlink(missing_ok=True)
    if plan.spec.method == "full":
        if plan.spec.chat_template is not None:
            processor.chat_template = plan.spec.chat_template
        pictures = processor.image_processor
        pictures.size = type(pictures.size)(shortest_edge=prepared.min_pixels, longest_edge=prepared.max_pixels)
        processor.save_pretrained(folder)
        _write(folder / "preprocessor_config.json", processor.image_processor.to_dict())  # where older tools look
    else:
        _say_the_bases_name(folder, plan.known_as or plan.base.name)
    for file in folder.iterdir():
        file.chmod(0o644)  # weights are saved for their owner alone, and others serve them


def without_numbers(model: Model) -> str | None:
    """As `first_without_numbers`, of what all processes have that train together."""
    found: list[str | None] = [first_without_numbers(model)]
    if dist.is_available() and dist.is_initialized():
        found *= dist.get_world_size()
        dist.all_gather_object(found, found[0])
    return next((name for name in found if name), None)


def _say_the_bases_name(folder: Path, name: str) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    _write(path, {**config, "base_model_name_or_path": name})  # a path of this machine helps nobody


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
