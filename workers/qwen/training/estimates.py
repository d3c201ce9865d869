"""What memory and work a training takes, from the model's shape alone: no weights are read.

Estimates are for one GPU in `pure_bf16` with gradient checkpointing and Adam, which is what a training does unless it
is told otherwise. They leave out what the allocator wastes, and CUDA's own half gigabyte.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vlyard.jobs.learning import Method, Part
from workers.qwen.loading import Model
from workers.qwen.training.parts import part_of

_BF16, _FP32 = 2, 4  # bytes
_NF4 = 0.5 + 4 / 64  # bytes of a weight: 4 bits, and an fp32 scale for each 64

# Floating-point operations a second with dense bf16 matrices that are summed up in fp32, by NVIDIA's data sheets.
CARDS: Mapping[str, float] = {"RTX 4090": 165e12, "A100": 312e12, "L40S": 362e12, "H100": 989e12}
UTILISATION = 0.35  # the part of that which tuning usually reaches


@dataclass(frozen=True)
class Learning:
    """What learns, and how."""

    method: Method
    parts: Collection[Part]
    rank: int  # of adapters


@dataclass(frozen=True)
class PartShape:
    """How large a part of a model is. Numbers are weights, not bytes."""

    parameters: int
    linear: int  # in its linear layers
    sides: int  # inputs and outputs of these layers: an adapter has so many weights for each rank


@dataclass(frozen=True)
class Shape:
    """How large a model is. Numbers are weights, not bytes."""

    parts: Mapping[Part, PartShape]  # embeddings and head are the language's
    matrices: int  # the language model's linear layers and its head: what every token is multiplied by
    config: Any  # a Qwen3VLConfig

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts.values())

    def adapter(self, learning: Learning) -> int:
        """The weights of an adapter."""
        return learning.rank * sum(self.parts[each].sides for each in learning.parts)

    def weight_bytes(self, learning: Learning) -> int:
        """Weights, gradients and optimiser states.

        full: 2 bytes for each weight; and for each that learns 2 of gradient and 2 × 2 of Adam's moments, which have
        the weights' type. lora: 2 for each weight; and 2 + 2 + 2 × 2 for each of the adapter's. qlora: 4.5 bits for
        each weight of the linear layers (NF4 with a scale for each 64), 2 bytes for the others; and 4 + 4 + 2 × 4 for
        each of the adapter's, which is in fp32 beside weights that are no numbers.
        """
        if learning.method == "full":
            return _BF16 * self.parameters + 3 * _BF16 * sum(self.parts[each].parameters for each in learning.parts)
        adapter = self.adapter(learning)
        if learning.method == "lora":
            return _BF16 * self.parameters + 4 * _BF16 * adapter
        linear = self.parts["language"].linear
        return round(_BF16 * (self.parameters - linear) + _NF4 * linear) + 4 * _FP32 * adapter

    def activation_bytes(self, learning: Learning, tokens: int, patches: int) -> int:
        """What a micro-batch needs beside the weights.

        Kept: each layer's input, 2 bytes × hidden × layers × tokens. One layer while it is computed anew: 2 bytes ×
        (6 hidden + 3 queries + 2 keys + 4 intermediate) × tokens. The scores of all tokens, in bf16, in fp32, and
        their gradient: 10 bytes × vocabulary × tokens. One layer of the vision tower: 2 bytes × (8 hidden + 2
        intermediate) × patches; where it learns, it keeps its layers' inputs as well.
        """
        text, vision = self.config.text_config, self.config.vision_config
        queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
        kept = text.hidden_size * text.num_hidden_layers
        layer = 6 * text.hidden_size + 3 * queries + 2 * keys + 4 * text.intermediate_size
        seen = 8 * vision.hidden_size + 2 * vision.intermediate_size
        if "vision" in learning.parts:
            seen += vision.hidden_size * vision.depth
        scores = (_BF16 + 2 * _FP32) * text.vocab_size
        return int(tokens * (_BF16 * (kept + layer) + scores) + patches * _BF16 * seen)

    def flops(self, learning: Learning, tokens: int, patches: int) -> float:
        """Of learning so many tokens once.

        A token takes 2 operations for each weight of the matrices forwards, 2 forwards again for the checkpoints, 2
        for the gradient of what went in, which what is before it needs, and 2 for the weights' own where they all
        learn. A patch takes 2 forwards for each weight of the vision tower and its mergers, and where the tower learns
        as much as a token. Attention between tokens is left out.
        """
        return float(
            (6 + _own(learning, "language")) * self.matrices * tokens
            + (6 + _own(learning, "vision") if "vision" in learning.parts else 2) * self._visual * patches
        )

    @property
    def _visual(self) -> int:
        return self.parts["vision"].parameters + self.parts["merger"].parameters


def seconds(flops: float) -> Mapping[str, float]:
    """How long so much work takes on one card of each kind."""
    return {card: flops / (UTILISATION * peak) for card, peak in CARDS.items()}


def shape_of(model: Path) -> Shape:
    """The shape of a checkpoint, from its config.json alone."""
    config = Qwen3VLConfig.from_pretrained(model, local_files_only=True)
    skeleton: Any = Qwen3VLForConditionalGeneration
    with torch.device("meta"):
        whole: Model = skeleton(config)
    parts: dict[Part, PartShape] = {part: _part(whole, part) for part in ("language", "merger", "vision")}
    return Shape(parts, parts["language"].linear + whole.get_output_embeddings().weight.numel(), config)


def _part(model: Model, part: Part) -> PartShape:
    layers: list[Any] = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head" and part_of(name) == part
    ]
    return PartShape(
        # Each once where two names share it.
        parameters=sum(weight.numel() for name, weight in model.named_parameters() if part_of(name) == part),
        linear=sum(weight.numel() for weight in layers),
        sides=sum(sum(weight.shape) for weight in layers),
    )


def _own(learning: Learning, part: Part) -> int:
    return 2 if learning.method == "full" and part in learning.parts else 0
