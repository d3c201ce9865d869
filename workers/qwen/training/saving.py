"""What a training leaves: the model as others load it, and the recipe that repeats it with LLaMA-Factory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from vlyard.jobs.training import TrainingSpec
from workers.qwen.loading import Model, Processor, first_without_numbers
from workers.qwen.training.plan import Plan
from workers.qwen.training.precision import choose_numbers
from workers.qwen.training.preparing import Prepared
from workers.qwen.training.recipe import shape_of_schedule

_INFO = "dataset_info.json"
_OF_THE_TRAINER = ("training_args.bin", "README.md")  # a pickle, and a card with a path of this machine
# https://github.com/hiyouga/LLaMA-Factory: hparams/*_args.py and transformers' TrainingArguments.
_THINKS, _DOES_NOT = "qwen3_vl", "qwen3_vl_nothink"


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
        _say_the_bases_name(folder, plan.base.name)
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


# --- the same with LLaMA-Factory ------------------------------------------------------------------------------


def save_recipe(plan: Plan, prepared: Prepared, steps: int) -> None:
    """Write `recipe/train.yaml` and `recipe/dataset_info.json`; `steps` is how many there were to be."""
    folder = plan.output / "recipe"
    folder.mkdir()
    known = plan.dataset / _INFO
    info = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    (folder / "train.yaml").write_text(llama_factory(plan, prepared, info, steps), encoding="utf-8")
    _write(folder / _INFO, info)


def llama_factory(plan: Plan, prepared: Prepared, info: Mapping[str, Any], steps: int) -> str:
    """The YAML for `llamafactory-cli train`; `info` is what the dataset_info.json beside it holds."""
    spec = plan.spec
    schedule, warm, more = shape_of_schedule(spec, steps)
    precision = choose_numbers(spec, cuda=torch.cuda.is_available()).name
    held_out, learned = (
        [name for name, each in info.items() if each["file_name"] in samples.names]
        for samples in (prepared.held_out, prepared.learned)
    )
    wanted: dict[str, Any] = {
        "model_name_or_path": plan.base.name,
        "stage": "sft",
        "do_train": True,
        **_method(spec),
        "dataset_dir": ".",
        "dataset": ",".join(learned),
        **({"eval_dataset": ",".join(held_out), "eval_strategy": "steps", "eval_steps": spec.checkpoint_steps}
           if held_out else {}),
        "template": _THINKS if "<think>" in (spec.chat_template or "") else _DOES_NOT,
        "cutoff_len": spec.max_tokens,
        "image_min_pixels": prepared.min_pixels,
        "image_max_pixels": prepared.max_pixels,
        **({"max_samples": spec.limit} if spec.limit else {}),
        **({"default_system": spec.system} if spec.system else {}),
        "per_device_train_batch_size": spec.micro_batch,
        "gradient_accumulation_steps": spec.accumulation,
        **({"max_steps": spec.max_steps} if spec.max_steps else {"num_train_epochs": spec.epochs}),
        "learning_rate": spec.highest_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": warm,
        **({"lr_scheduler_kwargs": more} if more else {}),
        "optim": spec.optimizer,
        "weight_decay": spec.weight_decay,
        "adam_beta2": spec.beta2,
        "max_grad_norm": spec.max_grad_norm,
        "disable_gradient_checkpointing": not spec.gradient_checkpointing,
        "pure_bf16": precision == "pure_bf16",
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "save_steps": spec.checkpoint_steps,
        "logging_steps": 1,
        "seed": spec.seed,
        "output_dir": spec.name,
    }  # fmt: skip
    head = "# llamafactory-cli train train.yaml, in the dataset's folder\n"
    return head + yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def _method(spec: TrainingSpec) -> dict[str, Any]:
    frozen = {
        "freeze_vision_tower": "vision" not in spec.parts,
        "freeze_multi_modal_projector": "merger" not in spec.parts,
        "freeze_language_model": "language" not in spec.parts,
    }
    if spec.method == "full":
        return {"finetuning_type": "full", **frozen}
    adapter = {
        "finetuning_type": "lora",
        "lora_rank": spec.lora_rank,
        "lora_alpha": round(spec.lora_alpha),  # it takes whole numbers
        "lora_dropout": spec.lora_dropout,
        "lora_target": ",".join(spec.lora_modules) or "all",
        "use_rslora": spec.rslora,
        "use_dora": spec.dora,
    }
    return {**adapter, **({"quantization_bit": 4} if spec.method == "qlora" else {}), **frozen}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
