"""What an adapter does to each tensor of its base, in the operations and the order of PEFT 0.21's `merge_and_unload`.

It knows no files that are written. PEFT holds the adapter's matrices in fp32 whatever they are stored in, adds their
product to the weight in the wider of both types, and rounds once to the weight's own: so does this, for some rows of
the weight at a time, which no operation here looks beyond. Which modules are meant, and how their change is scaled,
PEFT says itself, of a model without data.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import nn

from vlyard.errors import InvalidInput
from workers.qwen.adapters import CONFIG, WEIGHTS, check_adapter
from workers.qwen.checkpoint import refused
from workers.qwen.exporting.shards import FLOATS, Stored, tensors_of
from workers.qwen.exporting.tying import WORDS_IN, WORDS_OUT

_PREFIX, _WRAPPED = "base_model.model.", ".base_layer."
_ADAPTER = "default"  # PEFT's name of the only one
_DAMAGE = (ValueError, TypeError, LookupError, RuntimeError, AttributeError, NotImplementedError)


class Room:
    """Memory that one thread computes in again and again: to ask for it anew takes longer than to compute."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def floats(self, use: str, shape: Sequence[int]) -> torch.Tensor:
        """Numbers in fp32 of that shape, with anything in them, in the memory that this use had before."""
        count = math.prod(shape)
        if use not in self._held or self._held[use].numel() < count:
            self._held[use] = torch.empty(count)
        return self._held[use][:count].view(*shape)


class Change(Protocol):
    """A change that rows of a weight can have without the other rows."""

    def __call__(self, weight: torch.Tensor, first: int, last: int, made: torch.Tensor, room: Room) -> None:
        """Write the rows `first` to `last` of the merged weight, which were `weight`, into `made`, of the same shape.

        They are computed in the type of `weight`, as PEFT does in the base's, which is that of `made`, or wider, and
        in the `room` of the thread that asks.
        """
        ...


@dataclass(frozen=True)
class Changes:
    """All that an adapter changes, by the names that the base's tensors have."""

    sums: Mapping[str, Change]
    replaced: Mapping[str, Stored]  # whole tensors that come with the adapter; a sum of the same name comes after
    untied: bool  # the words in and out were one tensor, and are two from now on


NOTHING = Changes({}, {}, untied=False)


def changes_of(adapter: Path, skeleton: Any, base_name: str) -> Changes:
    """What an adapter does to a model, given without data, which is changed here. `base_name` is told on.

    Raises `InvalidInput` that names the setting or the tensor that is not understood, does not fit, or lacks; reads
    the matrices, and of whole tensors the headers.
    """
    check_adapter(adapter, skeleton, base_name)
    found = tensors_of(adapter / WEIGHTS)
    whole, tied = set(skeleton.state_dict()), skeleton.config.tie_word_embeddings
    adapted = put_on_skeleton(adapter, skeleton)
    _expect_the_same(adapter, found, adapted)
    replaced = {
        name: stored
        for key, stored in found.items()
        if (name := key.removeprefix(_PREFIX).replace(_WRAPPED, ".")) in whole
    }
    model = adapted.get_base_model()
    changes = Changes(dict(_sums(adapter, model)), replaced, untied=False)
    return _of_tied_words(changes, model) if tied else changes


def _of_tied_words(changes: Changes, model: Any) -> Changes:
    """The same, where the words in and out are one tensor: they stay one only where both become the same.

    PEFT's own merge adds what changes one end to the tensor of both, and what `ensure_weight_tying` gave to both ends
    twice, which is not the model that was trained. Here each end gets its own change, once.
    """
    from peft.utils import ModulesToSaveWrapper

    ends = {WORDS_IN: model.get_input_embeddings(), WORDS_OUT: model.get_output_embeddings()}
    saved = {
        name: end.modules_to_save[_ADAPTER].weight
        for name, end in ends.items()
        if isinstance(end, ModulesToSaveWrapper)
    }
    one = saved.get(WORDS_IN) is saved.get(WORDS_OUT)  # neither comes whole, or both as one
    sums, replaced = dict(changes.sums), dict(changes.replaced)
    shared = [name for name in ends if one or name not in saved]
    for given in [replaced[name] for name in shared if name in replaced]:
        replaced |= dict.fromkeys(shared, given)  # PEFT loads both into the one tensor, and the last one stays
    if untied := not (one and _is_one(sums.get(WORDS_IN), sums.get(WORDS_OUT))):
        return Changes(sums, replaced, untied)
    for kept in (sums, replaced):
        kept.pop(WORDS_OUT, None)
    return Changes(sums, replaced, untied)


def _is_one(words: Change | None, out: Change | None) -> bool:
    """Whether what is added to the words in is what is added to the words out, or nothing is to either."""
    if not (isinstance(words, _Words) and isinstance(out, _Linear)):
        return words is out is None
    mirrored = torch.equal(words.down, out.up.T) and torch.equal(words.up, out.down.T)
    return mirrored and words.scale == out.scale and out.magnitude is None


def put_on_skeleton(adapter: Path, skeleton: Any) -> Any:
    """PEFT's model of both, without data: every module that the adapter's settings name. Raises `InvalidInput`."""
    from peft import LoraConfig, get_peft_model  # heavy, and only for those who need it

    try:
        config: Any = LoraConfig.from_pretrained(str(adapter))
        # Nothing of how the training began matters any more, and without data there is nothing to begin.
        config.init_lora_weights, config.inference_mode, config.lora_dropout = True, True, 0.0
        # Nor has the adapter any data; but without it PEFT does not tie what it is to tie.
        return get_peft_model(skeleton, config, low_cpu_mem_usage=not config.ensure_weight_tying)
    except _DAMAGE as damage:
        first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
        raise refused(adapter.name, f"it cannot be put on the model: {first}", "save the adapter again") from damage


def _expect_the_same(adapter: Path, found: Mapping[str, Stored], adapted: Any) -> None:
    from peft import get_peft_model_state_dict

    where = f"{adapter.name}/{WEIGHTS}"
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    lacking = sorted({_bare(name) for name in wanted} - {_bare(name) for name in found})
    if lacking:
        what = f"it lacks {len(lacking)} of its {len(lacking) + len(found)} tensors, the first is {lacking[0]}"
        raise refused(where, what, "save the adapter again")
    known = {_bare(name) for name in wanted} | set(adapted.state_dict())
    for name, stored in found.items():
        if _bare(name) not in known:
            raise refused(where, f"the tensor {name} is of no module that {CONFIG} names", "save the adapter again")
        if stored.dtype not in FLOATS:
            raise refused(where, f"the tensor {name} has the type {stored.dtype}", "save the adapter in floats")


def _bare(name: str) -> str:
    """Magnitudes are stored under a name that PEFT has changed once."""
    return name.removesuffix(".weight") if name.endswith("lora_magnitude_vector.weight") else name


def _sums(adapter: Path, model: Any) -> Iterator[tuple[str, Change]]:
    from peft.tuners.lora import LoraLayer

    matrices = {_bare(name): tensor for name, tensor in load_file(adapter / WEIGHTS).items() if ".lora_" in name}
    for name, tensor in matrices.items():
        if not torch.isfinite(tensor).all():
            raise refused(f"{adapter.name}/{WEIGHTS}", f"the tensor {name} holds NaN or infinity", "train it again")
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            own = {
                key.removeprefix(f"{_PREFIX}{name}."): tensor.float()
                for key, tensor in matrices.items()
                if key.startswith(f"{_PREFIX}{name}.lora_")
            }
            yield f"{name}.weight", _sum(adapter, name, layer, own)


def _sum(adapter: Path, name: str, layer: Any, own: Mapping[str, torch.Tensor]) -> Change:
    scale, rank = layer.scaling[_ADAPTER], layer.r[_ADAPTER]
    if isinstance(layer.get_base_layer(), nn.Embedding):
        words = _Words(own["lora_embedding_A"], own["lora_embedding_B"], scale)
        return _of_rank(adapter, name, rank, words.down, words)
    down, up, magnitude = own["lora_A.weight"], own["lora_B.weight"], own.get("lora_magnitude_vector")
    kind = _Linear if isinstance(layer.get_base_layer(), nn.Linear) else _Convolution
    return _of_rank(adapter, name, rank, down, kind(down, up, scale, magnitude))


def _of_rank(adapter: Path, name: str, rank: int, down: torch.Tensor, change: Change) -> Change:
    if down.shape[0] == rank:
        return change
    what = f"{name} has the rank {down.shape[0]}, and {CONFIG} says {rank}"
    raise refused(f"{adapter.name}/{WEIGHTS}", what, "save the adapter again")


def _add(
    weight: torch.Tensor, delta: torch.Tensor, magnitude: torch.Tensor | None, made: torch.Tensor, room: Room
) -> None:
    """The sum, and with DoRA each row of it brought to its length: delta and the lengths are in fp32.

    Where `made` is narrower than `weight`, that is as wide as the sum: there is one rounding.
    """
    # The same as `weight + delta`, which takes ten times as long for two types.
    wide = torch.promote_types(weight.dtype, delta.dtype)
    total = room.floats("total", weight.shape).copy_(weight) if wide == torch.float32 else weight.to(wide)
    total += delta
    if magnitude is not None:
        lengths = torch.linalg.norm(total.flatten(1), dim=1)
        total *= (magnitude / lengths).view(-1, *[1] * (total.dim() - 1))
    made.copy_(total)


@dataclass(frozen=True)
class _Linear:
    down: torch.Tensor  # A, (r, in)
    up: torch.Tensor  # B, (out, r)
    scale: float
    magnitude: torch.Tensor | None  # (out,)

    def __call__(self, weight: torch.Tensor, first: int, last: int, made: torch.Tensor, room: Room) -> None:
        delta = torch.mm(self.up[first:last], self.down, out=room.floats("delta", weight.shape))
        delta *= self.scale
        _add(weight, delta, None if self.magnitude is None else self.magnitude[first:last], made, room)


@dataclass(frozen=True)
class _Words:
    down: torch.Tensor  # A, (r, words)
    up: torch.Tensor  # B, (width, r)
    scale: float

    def __call__(self, weight: torch.Tensor, first: int, last: int, made: torch.Tensor, room: Room) -> None:
        delta = (self.up @ self.down[:, first:last]).T * self.scale
        _add(weight, delta.to(weight.dtype), None, made, room)


@dataclass(frozen=True)
class _Convolution:
    down: torch.Tensor  # A, (r, in, 2, 16, 16)
    up: torch.Tensor  # B, (out, r, 1, 1, 1)
    scale: float
    magnitude: torch.Tensor | None  # (1, out, 1, 1, 1)

    def __call__(self, weight: torch.Tensor, first: int, last: int, made: torch.Tensor, room: Room) -> None:
        delta = torch.nn.functional.conv3d(self.down.transpose(0, 1), self.up[first:last]).transpose(0, 1)
        lengths = None if self.magnitude is None else self.magnitude.flatten()[first:last]
        _add(weight, delta * self.scale, lengths, made, room)


def skeleton_of(base: Path, *, tied: bool) -> Any:
    """The model without its weights: every module and every shape; `tied` is what `are_tied` says of it.

    Raises `InvalidInput`.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    reader: Any = Qwen3VLForConditionalGeneration
    try:
        config: Any = Qwen3VLConfig.from_pretrained(base, local_files_only=True)
        config.tie_word_embeddings = tied
        with torch.device("meta"):
            return reader(config)
    except (*_DAMAGE, OSError) as damage:
        first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
        raise _unusable(base, first) from damage


def _unusable(base: Path, what: str) -> InvalidInput:
    return refused(base.name, f"it is no model: {what}", "copy the checkpoint again")
