"""What memory and work a training takes, from the model's shape alone: no weights are read.

Estimates are for each GPU. They leave out what the allocator wastes, and CUDA's own half gigabyte.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vlyard.jobs.learning import Method, Optimizer, Part, Precision, Sharding
from workers.qwen.loading import Model
from workers.qwen.training.parts import expect_modules, kind_of, part_of

_BF16, _FP32 = 2, 4  # bytes
_NF4 = 0.5 + 4 / 64  # bytes of a weight: 4 bits, and an fp32 scale for each 64

# What an optimiser keeps of each weight: how many numbers, and of how many bytes; None: of as many as the weight.
# adafactor keeps rows and columns alone, and sgd has no momentum here. Paged ones may keep them beside the GPU.
STATES: Mapping[Optimizer, tuple[int, int | None]] = {
    "adamw_torch": (2, None), "adamw_torch_fused": (2, None), "adafactor": (0, None), "sgd": (0, None),
    "adagrad": (1, None), "rmsprop": (1, None),
    "adamw_bnb_8bit": (2, 1), "adamw_8bit": (2, 1), "paged_adamw_32bit": (2, 4), "paged_adamw_8bit": (2, 1),
    "ademamix": (3, 4), "ademamix_8bit": (3, 1), "paged_ademamix_32bit": (3, 4), "paged_ademamix_8bit": (3, 1),
    "lion_32bit": (1, 4), "lion_8bit": (1, 1), "paged_lion_32bit": (1, 4), "paged_lion_8bit": (1, 1),
    "rmsprop_bnb": (1, 4), "rmsprop_bnb_8bit": (1, 1), "rmsprop_bnb_32bit": (1, 4),
}  # fmt: skip

# Floating-point operations a second with dense bf16 matrices that are summed up in fp32, by NVIDIA's data sheets.
CARDS: Mapping[str, float] = {"RTX 4090": 165e12, "A100": 312e12, "L40S": 362e12, "H100": 989e12}
UTILISATION = 0.35  # the part of that which tuning usually reaches


@dataclass(frozen=True)
class Learning:
    """What learns, and how."""

    method: Method
    parts: Collection[Part]
    rank: int  # of adapters
    modules: Collection[str] = ()  # the linear layers that get an adapter; none: all of the parts
    precision: Precision = "pure_bf16"
    checkpointing: bool = True  # of activations
    optimizer: Optimizer = "adamw_torch_fused"
    gpus: int = 1
    sharding: Sharding = "ddp"

    @property
    def number(self) -> int:
        """Bytes of a weight, of its gradient, and of each of Adam's moments."""
        return _BF16 if self.precision == "pure_bf16" else _FP32

    @property
    def computed(self) -> int:
        """Bytes of a number that is computed with."""
        return _FP32 if self.precision == "fp32" else _BF16

    def learned_bytes(self, number: int) -> int:
        """Of each weight that learns, beside the weight of so many bytes: its gradient, and what the optimiser keeps.

        Where every GPU has the whole model, gradients are gathered in a copy.
        """
        copy = number if self.gpus > 1 and self.sharding == "ddp" else 0
        states, size = STATES[self.optimizer]
        return number + copy + states * (size or number)


@dataclass(frozen=True)
class PartShape:
    """How large a part of a model is. Numbers are weights, not bytes."""

    parameters: int
    linear: int  # in its linear layers
    sides: Mapping[str, int]  # by kind, inputs and outputs of these layers: an adapter's weights for each rank


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
        """The weights of an adapter. Raises `InvalidInput` where it is to be on layers that there are not."""
        kinds = {kind for part in learning.parts for kind in self.parts[part].sides}
        expect_modules(learning.modules, kinds, learning.parts)
        chosen = kinds.intersection(learning.modules) or kinds
        sides = [self.parts[part].sides for part in learning.parts]
        return learning.rank * sum(size for each in sides for kind, size in each.items() if kind in chosen)

    def weight_bytes(self, learning: Learning) -> int:
        """Weights, gradients and optimiser states of one GPU.

        In pure_bf16 with Adam, full: 2 bytes for each weight; and for each that learns 2 of gradient and 2 × 2 of
        moments, which have the weights' type. lora: 2 for each weight; and 2 + 2 + 2 × 2 for each of the adapter's.
        qlora: 4.5 bits for each weight of the linear layers (NF4 with a scale for each 64), 2 bytes for the others; and
        4 + 4 + 2 × 4 for each of the adapter's, which is in fp32 beside weights that are no numbers. In the other
        precisions weights have 4 bytes; where they compute in 16 bits, those that learn are kept in 2 more.
        """
        number, all_of_it = learning.number, self.parameters
        if learning.method == "full":
            cast = 0 if learning.computed == number else learning.computed
            learned = sum(self.parts[each].parameters for each in learning.parts)
            whole = number * all_of_it + (learning.learned_bytes(number) + cast) * learned
        elif learning.method == "lora":
            whole = number * all_of_it + (number + learning.learned_bytes(number)) * self.adapter(learning)
        else:
            linear = self.parts["language"].linear
            whole = round(_BF16 * (all_of_it - linear) + _NF4 * linear)
            whole += (_FP32 + learning.learned_bytes(_FP32)) * self.adapter(learning)
        return whole // (learning.gpus if learning.sharding == "fsdp" else 1)

    def activation_bytes(self, learning: Learning, tokens: int, patches: int) -> int:
        """What a micro-batch needs beside the weights.

        Kept: each layer's input, 2 bytes × hidden × layers × tokens (4 bytes in fp32, here and below). One layer while
        it is computed anew: 2 bytes × (6 hidden + 3 queries + 2 keys + 4 intermediate) × tokens. The scores of all
        tokens, in bf16, in fp32, and their gradient: 10 bytes × vocabulary × tokens. One layer of the vision tower: 2
        bytes × (8 hidden + 2 intermediate) × patches; where it learns, it keeps its layers' inputs as well. Without
        gradient checkpointing all that of one layer is kept of every layer.
        """
        text, vision = self.config.text_config, self.config.vision_config
        queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
        kept = text.hidden_size * text.num_hidden_layers
        layer = 6 * text.hidden_size + 3 * queries + 2 * keys + 4 * text.intermediate_size
        seen = 8 * vision.hidden_size + 2 * vision.intermediate_size
        at_once = 1 if learning.checkpointing else text.num_hidden_layers
        if "vision" in learning.parts:
            seen = seen * (1 if learning.checkpointing else vision.depth) + vision.hidden_size * vision.depth
        scores = (learning.computed + 2 * _FP32) * text.vocab_size
        return int(
            tokens * (learning.computed * (kept + at_once * layer) + scores) + patches * learning.computed * seen
        )

    def flops(self, learning: Learning, tokens: int, patches: int) -> float:
        """Of learning so many tokens once.

        A token takes 2 operations for each weight of the matrices forwards, 2 forwards again where activations are
        computed twice, 2 for the gradient of what went in, which what is before it needs, and 2 for the weights' own
        where they all learn. A patch takes 2 forwards for each weight of the vision tower and its mergers, and where
        the tower learns as much as a token. Attention between tokens is left out.
        """
        there_and_back = 6 if learning.checkpointing else 4
        return float(
            (there_and_back + _own(learning, "language")) * self.matrices * tokens
            + (there_and_back + _own(learning, "vision") if "vision" in learning.parts else 2) * self._visual * patches
        )

    @property
    def _visual(self) -> int:
        return self.parts["vision"].parameters + self.parts["merger"].parameters


def seconds(flops: float, gpus: int = 1) -> Mapping[str, float]:
    """How long so much work takes on so many cards of each kind."""
    return {card: flops / (UTILISATION * peak * gpus) for card, peak in CARDS.items()}


def shape_of(model: Path) -> Shape:
    """The shape of a checkpoint, from its config.json alone."""
    config = Qwen3VLConfig.from_pretrained(model, local_files_only=True)
    skeleton: Any = Qwen3VLForConditionalGeneration
    with torch.device("meta"):
        whole: Model = skeleton(config)
    parts: dict[Part, PartShape] = {part: _part(whole, part) for part in ("language", "merger", "vision")}
    return Shape(parts, parts["language"].linear + whole.get_output_embeddings().weight.numel(), config)


def _part(model: Model, part: Part) -> PartShape:
    layers: list[tuple[str, Any]] = [
        (kind_of(name), module.weight)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head" and part_of(name) == part
    ]
    sides: Counter[str] = Counter()
    for kind, weight in layers:
        sides[kind] += sum(weight.shape)
    return PartShape(
        # Each once where two names share it.
        parameters=sum(weight.numel() for name, weight in model.named_parameters() if part_of(name) == part),
        linear=sum(weight.numel() for _, weight in layers),
        sides=sides,
    )


def _own(learning: Learning, part: Part) -> int:
    return 2 if learning.method == "full" and part in learning.parts else 0
