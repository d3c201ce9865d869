"""What a training would be like: how long its samples are, and what memory and work it takes. It reads no weights.

Estimates are for one GPU in `pure_bf16` with gradient checkpointing and Adam, the language model learning and the
vision tower frozen, which is what a training does unless it is told otherwise. They leave out what the allocator
wastes, and CUDA's own half gigabyte.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vlyard.jobs.training import TrainingSpec
from vlyard.jobs.training_check import Lengths, TrainingCheckSpec
from workers.qwen.loading import Model
from workers.qwen.training.collating import Samples
from workers.qwen.training.preparing import Prepared

_BINS = 20
_SHOWN = 5  # samples of the preview, and of the longest
_RANK: int = TrainingSpec.model_fields["lora_rank"].default
_BF16, _FP32 = 2, 4  # bytes
_NF4 = 0.5 + 4 / 64  # bytes of a weight: 4 bits, and an fp32 scale for each 64


@dataclass(frozen=True)
class Survey:
    """A prepared dataset beside the model that is to learn it."""

    spec: TrainingCheckSpec
    prepared: Prepared
    model: Path  # a checkpoint's folder

    def numbers(self) -> dict[str, Any]:
        """The fields of `TrainingCheckResult`, but for its artefacts."""
        samples = self.prepared.learned
        return {
            "samples": len(samples),
            "held_out": len(self.prepared.held_out),
            "unusable": len(self.prepared.unusable),
            "too_long": sum(each.code == "too_long" for each in self.prepared.unusable),
            "tokens": sum(samples.lengths),
            "answer_tokens": int(samples.learned.sum()),
            "picture_tokens": self._picture_tokens,
            "lengths": histogram(samples.lengths),
            "template": "model" if self.spec.chat_template is None else "specification",
            "min_pixels": self.prepared.min_pixels,
            "max_pixels": self.prepared.max_pixels,
            "parameters": self._shape.parameters,
            "weight_bytes": self._shape.weight_bytes(self.spec.method),
            "activation_bytes": self._activation_bytes(),
            "flops": self._flops(),
        }

    def report(self) -> dict[str, Any]:
        """The numbers, the reasons of what is unusable, and the longest samples."""
        samples = self.prepared.learned
        longest = sorted(range(len(samples)), key=lambda at: -samples.lengths[at])[:_SHOWN]
        numbers = self.numbers()
        return {
            **numbers,
            "lengths": numbers["lengths"].model_dump(),
            "prompt": self.prepared.prompt,
            "unusable_by_code": dict(Counter(each.code for each in self.prepared.unusable).most_common()),
            "longest": [{"sample": samples.name(at), "tokens": samples.lengths[at]} for at in longest],
        }

    def preview(self) -> list[dict[str, Any]]:
        """The first samples as the model will see them."""
        samples = self.prepared.learned
        return [_shown(samples, at) for at in range(min(_SHOWN, len(samples)))]

    def unusable(self) -> Iterator[dict[str, str]]:
        """Every sample that cannot be learned, and why."""
        return (asdict(each) for each in self.prepared.unusable)

    @cached_property
    def _shape(self) -> "Shape":
        return shape_of(self.model)

    @cached_property
    def _picture_tokens(self) -> int:
        samples = self.prepared.learned
        return sum(samples.tokens_of(each) for each in samples.pictures)

    def _activation_bytes(self) -> int:
        """Of the longest samples that can come together, padded to the longest."""
        samples = self.prepared.learned
        longest = sorted(range(len(samples)), key=lambda at: -samples.lengths[at])[: self.spec.micro_batch]
        patches = sum(each.rows * each.columns for at in longest for each in samples.pictures_of(at))
        return self._shape.activation_bytes(len(longest) * samples.lengths[longest[0]], patches)

    def _flops(self) -> float:
        patches = sum(each.rows * each.columns for each in self.prepared.learned.pictures)
        tokens = sum(self.prepared.learned.lengths)
        return self.spec.epochs * self._shape.flops(self.spec.method, tokens, patches)


def histogram(lengths: "list[int] | Any") -> Lengths:
    """Of lengths in tokens, in at most 20 bins of equal width; there is at least one."""
    values = np.sort(np.asarray(lengths))
    smallest, largest = int(values[0]), int(values[-1])
    width = -(-(largest + 1 - smallest) // _BINS)
    edges = range(smallest, largest + width + 1, width)
    counts, _ = np.histogram(values, bins=list(edges))
    return Lengths(
        smallest=smallest,
        median=int(values[(len(values) - 1) // 2]),
        p95=int(values[(len(values) - 1) * 95 // 100]),
        largest=largest,
        edges=tuple(edges),
        counts=tuple(counts.tolist()),
    )


# --- the model's shape ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """How large a model is. Numbers are weights, not bytes."""

    parameters: int
    language: int  # with embeddings and head
    matrices: int  # the language model's linear layers and its head: what every token is multiplied by
    vision: int  # with its mergers
    adapter: int  # of the usual rank, on all linear layers of the language model
    linear: int  # those layers
    config: Any  # a Qwen3VLConfig

    def weight_bytes(self, method: str) -> int:
        """Weights, gradients and optimiser states.

        full: 2 bytes for each weight; and for each that learns 2 of gradient and 2 × 2 of Adam's moments, which have
        the weights' type. lora: 2 for each weight; and 2 + 2 + 2 × 2 for each of the adapter's. qlora: 4.5 bits for
        each weight of the linear layers (NF4 with a scale for each 64), 2 bytes for the others; and 4 + 4 + 2 × 4 for
        each of the adapter's, which is in fp32 beside weights that are no numbers.
        """
        if method == "full":
            return _BF16 * self.parameters + 3 * _BF16 * self.language
        if method == "lora":
            return _BF16 * self.parameters + 4 * _BF16 * self.adapter
        return round(_BF16 * (self.parameters - self.linear) + _NF4 * self.linear) + 4 * _FP32 * self.adapter

    def activation_bytes(self, tokens: int, patches: int) -> int:
        """What a micro-batch needs beside the weights.

        Kept: each layer's input, 2 bytes × hidden × layers × tokens. One layer while it is computed anew: 2 bytes ×
        (6 hidden + 3 queries + 2 keys + 4 intermediate) × tokens. The scores of all tokens, in bf16, in fp32, and
        their gradient: 10 bytes × vocabulary × tokens. One layer of the vision tower, which keeps nothing: 2 bytes ×
        (8 hidden + 2 intermediate) × patches.
        """
        text, vision = self.config.text_config, self.config.vision_config
        queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
        kept = text.hidden_size * text.num_hidden_layers
        layer = 6 * text.hidden_size + 3 * queries + 2 * keys + 4 * text.intermediate_size
        seen = 8 * vision.hidden_size + 2 * vision.intermediate_size
        scores = (_BF16 + 2 * _FP32) * text.vocab_size
        return int(tokens * (_BF16 * (kept + layer) + scores) + patches * _BF16 * seen)

    def flops(self, method: str, tokens: int, patches: int) -> float:
        """Of learning so many tokens once.

        A token takes 2 operations for each weight of the matrices forwards, 2 forwards again for the checkpoints, 2
        for the gradient of what went in, and 2 for the weights' own where they learn: 8 with `full`, 6 with adapters.
        A patch takes 2 forwards for each weight of the vision tower. Attention between tokens is left out.
        """
        times = 8 if method == "full" else 6
        return float(times * self.matrices * tokens + 2 * self.vision * patches)


def shape_of(model: Path) -> Shape:
    """The shape of a checkpoint, from its config.json alone."""
    config = Qwen3VLConfig.from_pretrained(model, local_files_only=True)
    skeleton: Any = Qwen3VLForConditionalGeneration
    with torch.device("meta"):
        whole: Model = skeleton(config)
    language, head = whole.model.language_model, whole.get_output_embeddings().weight
    linear = [module.weight for module in language.modules() if isinstance(module, torch.nn.Linear)]
    inner = sum(weight.numel() for weight in linear)
    tied = head is whole.get_input_embeddings().weight
    return Shape(
        parameters=_count(whole),
        language=_count(language) + (0 if tied else head.numel()),
        matrices=inner + head.numel(),
        vision=_count(whole.model.visual),
        adapter=sum(_RANK * sum(weight.shape) for weight in linear),
        linear=inner,
        config=config,
    )


def _count(module: torch.nn.Module) -> int:
    """Parameters, each once where two names share it."""
    return sum(parameter.numel() for parameter in module.parameters())


# --- the preview ----------------------------------------------------------------------------------------------


def _shown(samples: Samples, at: int) -> dict[str, Any]:
    ids, learned = samples.tokens(at)
    decode = samples.processor.tokenizer.decode
    runs = groupby(zip(ids.tolist(), learned.tolist(), strict=True), key=lambda each: each[1])
    return {
        "sample": samples.name(at),
        "tokens": samples.lengths[at],
        "answer_tokens": int(learned.sum()),
        "picture_tokens": sum(samples.tokens_of(each) for each in samples.pictures_of(at)),
        "parts": [{"text": decode([id for id, _ in run]), "learned": bool(kind)} for kind, run in runs],
        "pictures": [_picture(samples, each) for each in samples.pictures_of(at)],
    }


def _picture(samples: Samples, picture: Any) -> Mapping[str, Any]:
    side = samples.processor.image_processor.patch_size
    return {
        "picture": picture.name,
        "width": picture.columns * side,
        "height": picture.rows * side,
        "tokens": samples.tokens_of(picture),
    }
