"""An export's weights beside those of its base: what no adapter touches has the same bytes, the rest is PEFT's merge.

Each layer that an adapter changes is merged by PEFT itself, alone, on a model that has no data otherwise: this does not
stand on our own arithmetic. One tensor and what it becomes are in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vlyard.errors import Complaint
from workers.qwen.adapters import WEIGHTS
from workers.qwen.checkpoint import CONFIG, read_json
from workers.qwen.exporting.changes import NOTHING, changes_of, put_on_skeleton, skeleton_of
from workers.qwen.exporting.merging import sources_of
from workers.qwen.exporting.shards import FLOATS, Stored, stored_tensors
from workers.qwen.verifying.files import AGAIN

_PREFIX = "base_model.model."
_ADAPTER = "default"  # PEFT's name of the only one
_PIECE = 1 << 22  # numbers that are compared at a time
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # of a float's width in bytes


def wrong_weights(export: Path, base: Path, adapter: Path | None, check: Callable[[], None]) -> Iterator[Complaint]:
    """Tensors that are not those of the base with the adapter merged in, and how many of their numbers differ.

    Of a tensor that the adapter changes, numbers may be apart by what one rounding costs: a matrix product that is cut
    otherwise adds in another order. Tensors that are not in floats (quantised ones) are not looked at.
    """
    stored, tied = stored_tensors(base), bool(read_json(base / CONFIG).get("tie_word_embeddings"))
    changes = changes_of(adapter, skeleton_of(base), base.name) if adapter else NOTHING
    merges = _Merges(adapter, skeleton_of(base)) if adapter else None
    sources = sources_of(stored, changes, tied=tied)
    for name, made in stored_tensors(export).items():
        source = sources.get(name)
        if source is None or made.dtype not in FLOATS:
            continue
        check()
        if merges and name in changes.sums:
            wrong = _far(made, source, merges.of(name, _wide(source, made)))
        else:
            wrong = _other(made, source)
        if wrong:
            what = f"{wrong:,} of the {made.numbers:,} numbers of {name} are not those of the model that it was made of"
            yield Complaint(f"{export.name}/{made.file.name}", what, AGAIN)


class _Merges:
    """Each weight that an adapter changes, as PEFT merges it."""

    def __init__(self, adapter: Path, skeleton: Any) -> None:
        from peft.tuners.lora import LoraLayer

        model = put_on_skeleton(adapter, skeleton).get_base_model()
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
        self._layers: Mapping[str, Any] = layers
        self._matrices = load_file(adapter / WEIGHTS)

    def of(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The merged weight of that name, in the type of `weight`, which is the base's."""
        path = name.removesuffix(".weight")
        layer, own = self._layers[path], f"{_PREFIX}{path}."
        given = {_place(key.removeprefix(own)): one.float() for key, one in self._matrices.items() if own in key}
        with torch.no_grad():
            layer.load_state_dict({"base_layer.weight": weight, **given}, strict=False, assign=True)
            layer.merge(safe_merge=False)
            merged: torch.Tensor = layer.get_base_layer().weight.data
            layer.to("meta")
        return merged


def _place(key: str) -> str:
    """Where PEFT has in memory what it stores under a key: the adapter's name comes between."""
    stem = key.removesuffix(".weight")
    return f"{stem}.{_ADAPTER}" if stem.startswith("lora_embedding") else f"{stem}.{_ADAPTER}.weight"


def _wide(source: Stored, made: Stored) -> torch.Tensor:
    """The base's weight in the type that a merge computes in: the wider of what it has and what it becomes."""
    return source.read().to(torch.promote_types(FLOATS[source.dtype], FLOATS[made.dtype]))


def _other(made: Stored, source: Stored) -> int:
    """How many numbers differ in their bits."""
    bits, wrong = _BITS[FLOATS[made.dtype].itemsize], 0
    for first, last in _pieces(made):
        expected = source.read(first, last).to(FLOATS[made.dtype])
        wrong += int((expected.view(bits) != made.read(first, last).view(bits)).sum())
    return wrong


def _far(made: Stored, source: Stored, merged: torch.Tensor) -> int:
    """How many numbers are further from a merged weight than a rounding of the sum that they are."""
    step, wrong = torch.finfo(FLOATS[made.dtype]).eps, 0
    for first, last in _pieces(made):
        expected = merged[first:last].to(FLOATS[made.dtype]).double()
        room = step * (expected.abs() + source.read(first, last).double().abs())
        near = (made.read(first, last).double() - expected).abs() <= room
        wrong += int((~near).sum())  # also where it is no number
    return wrong


def _pieces(tensor: Stored) -> Iterator[tuple[int, int]]:
    rows = max(_PIECE // max(tensor.numbers // tensor.rows, 1), 1)
    for first in range(0, tensor.rows, rows):
        yield first, min(first + rows, tensor.rows)
