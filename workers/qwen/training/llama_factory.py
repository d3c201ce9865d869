"""The recipe that repeats a training with LLaMA-Factory: its YAML, and its description of the samples.

Data that is described the way LLaMA-Factory has it keeps its names. Other samples are written once more in the form
that it reads, with only those that were learned or held out. Sources: https://github.com/hiyouga/LLaMA-Factory,
hparams/*_args.py and data/README.md, and transformers' TrainingArguments.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from vlyard.formats.picture import open_picture
from vlyard.formats.writers.sharegpt import DATASET_INFO
from vlyard.jobs.training import TrainingSpec
from workers.qwen.loading import Processor
from workers.qwen.training.collating import Samples
from workers.qwen.training.plan import Plan
from workers.qwen.training.precision import choose_numbers
from workers.qwen.training.preparing import Prepared
from workers.qwen.training.recipe import shape_of_schedule
from workers.qwen.training.rows import DataSet, find_data, rows
from workers.qwen.training.turns import Conversation, filled, read_conversation

_THINKS, _DOES_NOT = "qwen3_vl", "qwen3_vl_nothink"  # its names of chat templates
_ENTRY = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images", "system": "system"},
    "tags": {
        "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
        "system_tag": "system",
    },
}  # fmt: skip


class Sets(NamedTuple):
    """The data sets that a dataset_info.json names."""

    info: Mapping[str, Any]
    learned: Sequence[str]
    held_out: Sequence[str]


def save_recipe(plan: Plan, prepared: Prepared, processor: Processor, steps: int) -> None:
    """Write `recipe/train.yaml`, `recipe/dataset_info.json`, and what that names and the dataset does not have.

    `steps` is how many there were to be.
    """
    folder = plan.output / "recipe"
    folder.mkdir()
    sets = _described(prepared) or _told_again(plan, prepared, folder)
    (folder / "train.yaml").write_text(_settings(plan, prepared, processor, sets, steps), encoding="utf-8")
    _write(folder / DATASET_INFO, sets.info)


def _settings(plan: Plan, prepared: Prepared, processor: Processor, sets: Sets, steps: int) -> str:
    """The YAML for `llamafactory-cli train`."""
    spec = plan.spec
    schedule, warm, more = shape_of_schedule(spec, steps)
    precision = choose_numbers(spec, cuda=torch.cuda.is_available()).name
    wanted: dict[str, Any] = {
        "model_name_or_path": plan.known_as or plan.base.name,
        "stage": "sft",
        "do_train": True,
        **_method(spec),
        "dataset_dir": ".",
        "dataset": ",".join(sets.learned),
        **({"eval_dataset": ",".join(sets.held_out), "eval_strategy": "steps", "eval_steps": spec.checkpoint_steps}
           if sets.held_out else {}),
        "template": _THINKS if _thinks(processor, spec.chat_template) else _DOES_NOT,
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
    head = "# llamafactory-cli train train.yaml, in the dataset's folder, with all files that are beside this one\n"
    return head + yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def _thinks(processor: Processor, template: str | None) -> bool:
    """Whether an answer begins with a thought, as the template of a Thinking model has it."""
    said = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    asked = processor.apply_chat_template(said, chat_template=template, add_generation_prompt=True, tokenize=False)
    return str(asked).rstrip().endswith("<think>")


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


# --- the samples ----------------------------------------------------------------------------------------------


def _described(prepared: Prepared) -> Sets | None:
    """The sets of the dataset's own description, where that is at its root and names all that is learned."""
    path = prepared.learned.root / DATASET_INFO
    if not path.is_file() or prepared.unusable:
        return None
    info = json.loads(path.read_text(encoding="utf-8"))
    learned, held_out = (
        [name for name, each in info.items() if each["file_name"] in samples.names]
        for samples in (prepared.learned, prepared.held_out)
    )
    whole = len(learned) == len(prepared.learned.names) and len(held_out) == len(prepared.held_out.names)
    return Sets(info, learned, held_out) if whole else None


def _told_again(plan: Plan, prepared: Prepared, folder: Path) -> Sets:
    data, info = find_data(plan.spec, plan.dataset), {}
    for name, samples, files in (
        ("learned", prepared.learned, data.learned), ("held_out", prepared.held_out, data.held_out),
    ):  # fmt: skip
        if len(samples):
            told = list(_samples(plan.spec, samples, files))
            _write(folder / f"{name}.json", told)
            info[name] = {"file_name": f"{name}.json", **_ENTRY}
    return Sets(info, [name for name in info if name == "learned"], [name for name in info if name == "held_out"])


def _samples(spec: TrainingSpec, samples: Samples, files: Sequence[DataSet]) -> Iterator[Mapping[str, Any]]:
    """Those that are among `samples`, with their pictures' paths from the dataset's root."""
    at = {(samples.names[file], int(number)): index for index, (file, number) in enumerate(samples.sources)}
    for data_set in files:
        for row in rows(data_set):
            index = at.get((data_set.name, row.number))
            if index is not None:
                said = read_conversation(row.said, data_set.columns, spec.system)
                yield _sample(said, samples.root, [each.name for each in samples.pictures_of(index)])


def _sample(said: Conversation, root: Path, pictures: Sequence[str]) -> Mapping[str, Any]:
    sizes = [open_picture(root / name, name=name).size for name in pictures] if said.slots else []
    turns = [(turn.role, _with_places(turn.parts)) for turn in filled(said, sizes).turns]
    system = [words for role, words in turns if role == "system"]
    spoken = [{"role": role, "content": words} for role, words in turns if role != "system"]
    return {"messages": spoken, "images": list(pictures), **({"system": system[0]} if system else {})}


def _with_places(parts: Sequence[str | None]) -> str:
    return "".join("<image>" if part is None else part for part in parts)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
