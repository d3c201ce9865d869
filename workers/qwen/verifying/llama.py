"""The two files of llama.cpp beside the model in whole weights: the same names, shapes and numbers.

How llama.cpp calls each tensor is told here once more, and not asked of the converter:
https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py. It runs no model.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlyard.errors import Complaint
from workers.qwen.exporting.folder import CARD, LICENSES, SUMS
from workers.qwen.exporting.gguf import LANGUAGE, SEES
from workers.qwen.exporting.shards import FLOATS, Stored, stored_tensors
from workers.qwen.verifying.files import AGAIN

_TYPES: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16}  # as both say it
_WORDS_OUT = "output.weight"
_PATCHES = "model.visual.patch_embed.proj.weight"  # (out, in, 2, 16, 16): a file has each of the two moments apart
_IN_A_LAYER = (  # of the language model; its number is \1
    (r"input_layernorm", "attn_norm"),
    (r"post_attention_layernorm", "ffn_norm"),
    (r"self_attn\.([qkv])_proj", r"attn_\2"),
    (r"self_attn\.o_proj", "attn_output"),
    (r"self_attn\.([qk])_norm", r"attn_\2_norm"),
    (r"mlp\.(gate|up|down)_proj", r"ffn_\2"),
)
_IN_A_BLOCK = (  # of what sees; its number is \1
    (r"norm([12])", r"ln\2"),
    (r"attn\.qkv", "attn_qkv"),
    (r"attn\.proj", "attn_out"),
    (r"mlp\.linear_fc1", "ffn_up"),
    (r"mlp\.linear_fc2", "ffn_down"),
)
# What a tensor's name becomes, without `.weight` or `.bias`; the first that fits counts.
_NAMES = (
    (r"model\.language_model\.embed_tokens", "token_embd"),
    (r"model\.language_model\.norm", "output_norm"),
    (r"lm_head", "output"),
    *((rf"model\.language_model\.layers\.(\d+)\.{ours}", rf"blk.\1.{theirs}") for ours, theirs in _IN_A_LAYER),
    *((rf"model\.visual\.blocks\.(\d+)\.{ours}", rf"v.blk.\1.{theirs}") for ours, theirs in _IN_A_BLOCK),
    (r"model\.visual\.deepstack_merger_list\.(\d+)\.(?:linear_)?(fc1|fc2|norm)", r"v.deepstack.\1.\2"),
    (r"model\.visual\.merger\.linear_fc1", "mm.0"),
    (r"model\.visual\.merger\.linear_fc2", "mm.2"),
    (r"model\.visual\.merger\.norm", "v.post_ln"),
    (r"model\.visual\.patch_embed\.proj", "v.patch_embd"),
    (r"model\.visual\.pos_embed", "v.position_embd"),
)


@dataclass(frozen=True)
class _Part:
    """A tensor of the whole model, or one moment of the one that looks at two."""

    stored: Stored
    moment: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.stored.shape
        return shape if self.moment is None else (*shape[:2], *shape[3:])

    def numbers(self) -> torch.Tensor:
        whole = self.stored.read()
        return whole if self.moment is None else whole[:, :, self.moment]


def is_for_llama(export: Path) -> bool:
    """Whether a folder holds what llama.cpp reads."""
    return any(export.glob("*.gguf"))


def wrong_files_for_llama(export: Path) -> Iterator[Complaint]:
    """What must not be there, and what is missing."""
    wanted = {LANGUAGE, SEES, CARD, SUMS}
    there = {path.relative_to(export).as_posix() for path in export.rglob("*") if path.is_symlink() or path.is_file()}
    for name in sorted(there - wanted - set(LICENSES)):
        yield Complaint(f"{export.name}/{name}", "it is no file of a model for llama.cpp", "leave it out")
    for name in sorted(wanted - there):
        yield Complaint(f"{export.name}/{name}", "there is no such file", AGAIN)


def wrong_tensors_for_llama(
    export: Path, whole: Path, deep: Sequence[int], check: Callable[[], None], *, tied: bool
) -> Iterator[Complaint]:
    """Tensors that are not those of the `whole` model, each number rounded once to the type that it has there.

    `deep` are the layers of what sees from which the language model is told, and `tied` whether its words that come out
    may be left out, as those that go in are the same.
    """
    parts = parts_of(whole, deep)
    found: dict[str, tuple[str, Any]] = {}
    for name in (LANGUAGE, SEES):
        try:
            found |= {tensor.name: (name, tensor) for tensor in _read(export / name)}
        except (ValueError, OSError, IndexError, KeyError) as damage:
            yield Complaint(f"{export.name}/{name}", f"it is damaged: {damage}", AGAIN)
            return
    for name in sorted(parts.keys() - found.keys() - ({_WORDS_OUT} if tied else set())):
        yield Complaint(export.name, f"there is no tensor {name}", AGAIN)
    for name, (file, tensor) in found.items():
        check()
        where = f"{export.name}/{file}"
        if name not in parts:
            yield Complaint(where, f"the tensor {name} is none of the model's", AGAIN)
        elif what := _wrong(tensor, parts[name]):
            yield Complaint(where, f"the tensor {name} {what}", AGAIN)


def parts_of(whole: Path, deep: Sequence[int]) -> Mapping[str, _Part]:
    """The tensors of a model by the names that llama.cpp has for them."""
    found: dict[str, _Part] = {}
    for name, stored in stored_tensors(whole).items():
        if name == _PATCHES:
            found |= {"v.patch_embd.weight": _Part(stored, 0), "v.patch_embd.weight.1": _Part(stored, 1)}
        else:
            found[_named(name, deep)] = _Part(stored)
    return found


def _named(name: str, deep: Sequence[int]) -> str:
    stem, _, end = name.rpartition(".")
    for pattern, theirs in _NAMES:
        if match := re.fullmatch(pattern, stem):
            told = match.expand(theirs)
            if told.startswith("v.deepstack."):  # counted by the layer that it looks at
                told = told.replace(f".{match[1]}.", f".{deep[int(match[1])]}.", 1)
            return f"{told}.{end}"
    raise AssertionError(f"llama.cpp's name of {name} is not known")


def _read(file: Path) -> list[Any]:
    from gguf import GGUFReader

    return list(GGUFReader(file).tensors)


def _wrong(tensor: Any, part: _Part) -> str:
    kind, shape = tensor.tensor_type.name, tuple(int(size) for size in reversed(tensor.shape))
    if kind not in _TYPES:
        return f"is of {kind}"
    if shape != part.shape:
        return f"has the shape {shape}, and the model {part.shape}"
    made = torch.from_numpy(tensor.data.copy()).view(shape)
    wrong = int((made != part.numbers().to(FLOATS["F32"]).to(_TYPES[kind])).sum())
    return f"has {wrong:,} of {made.numel():,} numbers that are not the model's" if wrong else ""
