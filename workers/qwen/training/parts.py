"""Which parts of a Qwen3-VL learn, and where adapters go. It knows no data and no schedule."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.learning import Part
from vlyard.jobs.training import TrainingSpec
from workers.qwen.loading import Model

# Modules by the part that they belong to, as transformers names them; the first that fits counts.
_PLACES: Mapping[Part, re.Pattern[str]] = {
    "merger": re.compile(r"model\.visual\.(merger|deepstack_merger_list)\b"),
    "vision": re.compile(r"model\.visual\b"),
    "language": re.compile(r"(model\.language_model|lm_head)\b"),
}


def part_of(name: str) -> Part:
    """The part that a module or parameter belongs to."""
    return next(part for part, place in _PLACES.items() if place.match(name))


def let_learn(model: Model, spec: TrainingSpec) -> Model:
    """The model with the parts that learn, whole or as adapters; the others are frozen.

    Raises `InvalidInput` where `lora_modules` names what there is not.
    """
    if spec.method == "full":
        for name, weight in model.named_parameters():
            weight.requires_grad_(part_of(name) in spec.parts)
        return model
    from peft import LoraConfig, get_peft_model  # heavy, and only for adapters

    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,  # type: ignore[arg-type]  # fractions are divided as well
        lora_dropout=spec.lora_dropout,
        target_modules=sorted(_targets(model, spec)),
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        task_type="CAUSAL_LM",
    )
    # Adapters have the base's dtype: what is to be pure bf16 is pure.
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def _targets(model: Model, spec: TrainingSpec) -> set[str]:
    """The full names of the linear layers that get an adapter."""
    found = dict(_linear_layers(model, spec))
    if not spec.lora_modules:
        return set(found)
    expect_modules(spec.lora_modules, {kind_of(name) for name in found}, spec.parts)
    return {name for name in found if kind_of(name) in spec.lora_modules}


def kind_of(name: str) -> str:
    """What `lora_modules` calls a layer: `q_proj`, wherever it is."""
    return name.rpartition(".")[2]


def expect_modules(wanted: Collection[str], kinds: Collection[str], parts: Collection[Part]) -> None:
    """Raise `InvalidInput` where adapters are wanted on layers that the parts do not have."""
    if unknown := [name for name in wanted if name not in kinds]:
        what = f"there is no linear layer {unknown[0]!r} in {' and '.join(parts)}"
        raise InvalidInput(
            "The adapter has no place", [Complaint("/spec/lora_modules", what, f"there are {', '.join(sorted(kinds))}")]
        )


def _linear_layers(model: Model, spec: TrainingSpec) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head" and part_of(name) in spec.parts:
            yield name, module
