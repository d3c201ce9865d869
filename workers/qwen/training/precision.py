"""Which numbers a training computes with, and what this machine cannot do. It knows no model."""

import importlib.util
from typing import Any, NamedTuple

import torch
from transformers import BitsAndBytesConfig

from vlyard.errors import Complaint, InvalidInput
from vlyard.extras import installing
from vlyard.jobs.learning import Precision
from vlyard.jobs.training import TrainingSpec
from vlyard.jobs.training_check import TrainingCheckSpec

_OF_TORCH = frozenset({"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"})


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
    if not cuda and (complaints := needing_a_gpu(spec)):
        raise InvalidInput("This worker has no GPU", complaints)
    _expect_bitsandbytes(spec)
    return _NUMBERS[spec.precision or ("pure_bf16" if cuda else "fp32")]


def in_four_bits() -> BitsAndBytesConfig:
    """How qlora reads the base: NF4 twice over (https://arxiv.org/abs/2305.14314), but for the eyes and the head."""
    make: Any = BitsAndBytesConfig  # its annotations are incomplete
    config: BitsAndBytesConfig = make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["visual", "lm_head"],
    )
    return config


def _expect_bitsandbytes(spec: TrainingSpec) -> None:
    """Before anything is loaded. It comes with workers on Linux alone."""
    if importlib.util.find_spec("bitsandbytes") is not None:
        return
    wanted = {"/spec/method": "qlora" if spec.method == "qlora" else "", "/spec/optimizer": spec.optimizer}
    complaints = [
        Complaint(where, f"{name} needs bitsandbytes", f"have the worker's operator run: {installing('qlora')}")
        for where, name in wanted.items()
        if name and name not in _OF_TORCH
    ]
    if complaints:
        raise InvalidInput("This worker cannot do that", complaints)


def needing_a_gpu(spec: TrainingSpec | TrainingCheckSpec) -> list[Complaint]:
    """What of a specification no worker without a GPU can do."""
    complaints = []
    if spec.precision == "fp16":
        complaints.append(Complaint("/spec/precision", "fp16 needs a GPU", "choose fp32, bf16 or pure_bf16"))
    if spec.method == "qlora":
        complaints.append(Complaint("/spec/method", "qlora needs a GPU", "choose lora"))
    if spec.optimizer not in _OF_TORCH:
        complaints.append(Complaint("/spec/optimizer", f"{spec.optimizer} needs a GPU", "choose adamw_torch_fused"))
    if spec.sharding == "fsdp" and spec.gpus > 1:
        complaints.append(Complaint("/spec/sharding", "fsdp needs GPUs", "choose ddp"))
    return complaints
