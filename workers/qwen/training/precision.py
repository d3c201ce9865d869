"""Which numbers a training computes with, and what this machine cannot do. It knows no model."""

import importlib.util
from typing import Any, NamedTuple

import torch
from transformers import BitsAndBytesConfig

from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.learning import Precision
from vlyard.jobs.training import TrainingSpec

_OPTIMIZERS_OF_GPUS = frozenset({"adamw_bnb_8bit", "paged_adamw_8bit", "lion_8bit"})


class Numbers(NamedTuple):
    """What a training computes with."""

    name: Precision
    weights: torch.dtype
    autocast: torch.dtype | None  # what is computed in, where that is not the weights' own


_NUMBERS: dict[Precision, Numbers] = {
    "pure_bf16": Numbers("pure_bf16", torch.bfloat16, None),
    "bf16": Numbers("bf16", torch.float32, torch.bfloat16),
    "fp16": Numbers("fp16", torch.float32, torch.float16),
    "fp32": Numbers("fp32", torch.float32, None),
}


def choose_numbers(spec: TrainingSpec, *, cuda: bool) -> Numbers:
    """What the specification asks for, or what this machine is best at. Raises `InvalidInput` for what it cannot do."""
    if not cuda:
        _refuse_what_needs_a_gpu(spec)
    return _NUMBERS[spec.precision or ("pure_bf16" if cuda else "fp32")]


def in_four_bits() -> BitsAndBytesConfig:
    """How qlora reads the base: NF4 twice over (https://arxiv.org/abs/2305.14314), but for the eyes and the head."""
    if importlib.util.find_spec("bitsandbytes") is None:
        complaint = Complaint("/spec/method", "qlora needs bitsandbytes", "pip install bitsandbytes, or choose lora")
        raise InvalidInput("This worker cannot do that", [complaint])
    make: Any = BitsAndBytesConfig  # its annotations are incomplete
    config: BitsAndBytesConfig = make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["visual", "lm_head"],
    )
    return config


def _refuse_what_needs_a_gpu(spec: TrainingSpec) -> None:
    complaints = []
    if spec.precision == "fp16":
        complaints.append(Complaint("/spec/precision", "fp16 needs a GPU", "choose fp32, bf16 or pure_bf16"))
    if spec.method == "qlora":
        complaints.append(Complaint("/spec/method", "qlora needs a GPU", "choose lora"))
    if spec.optimizer in _OPTIMIZERS_OF_GPUS:
        complaints.append(Complaint("/spec/optimizer", f"{spec.optimizer} needs a GPU", "choose adamw_torch_fused"))
    if spec.sharding == "fsdp" and spec.gpus > 1:
        complaints.append(Complaint("/spec/sharding", "fsdp needs GPUs", "choose ddp"))
    if complaints:
        raise InvalidInput("This worker has no GPU", complaints)
