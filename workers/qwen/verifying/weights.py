"""An export's weights beside those of its base: what no adapter touches has the same bytes, the rest is PEFT's merge.

Each layer that an adapter changes is merged by PEFT itself, alone, on a model that has no data otherwise: this does not
stand on our own arithmetic. One tensor and what it becomes are in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vlyard.errors import Complaint
from workers.qwen.adapters import WEIGHTS
from workers.qwen.exporting.changes import NOTHING, changes_of, put_on_skeleton, skeleton_of
from workers.qwen.exporting.merging import sources_of
from workers.qwen.exporting.shards import FLOATS, Stored, stored_tensors
from workers.qwen.exporting.tying import are_tied
from workers.qwen.verifying.files import AGAIN

_PREFIX = "base_model.model."
_ADAPTER = "default"  # PEFT's name of the only one
_STEPS = "qdata"  # how torchao calls the numbers of a quantised weight, beside `scale` and `zero_point`
_NEAREST = 0.6  # steps: half of one, and what it costs to compute the scale in 16 bits (measured: .54)
_PIECE = 1 << 22  # numbers that are compared at a time
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # of a float's width in bytes


def wrong_weights(export: Path, base: Path, adapter: Path | None, check: Callable[[], None]) -> Iterator[Complaint]:
    """Tensors that are not those of the base with the adapter merged in, and how many of their numbers differ.

    Of a tensor that the adapter changes, numbers may be apart by what one rounding costs: a matrix product that is cut
    otherwise adds in another order. Of quantised ones each number has to be the nearest step to what it was.
    """
    given, made = stored_tensors(base), stored_tensors(export)
    tied = are_tied(base, given)
    changes = changes_of(adapter, skeleton_of(base, tied=tied), base.name) if adapter else NOTHING
    merges = _Merges(adapter, skeleton_of(base, tied=tied)) if adapter else None
    for name, source in sources_of(given, changes, tied=tied).items():
        check()
        merged = merges if merges and name in changes.sums else None
        stem = f"{name.removesuffix('weight')}_weight_"
        whole, steps = made.get(name), made.get(stem + _STEPS)
        if steps:
            wrong = _off_their_step(stem, steps, merged.of(name, source.read()) if merged else source.read())
            numbers, file = steps.numbers, steps.file
        elif whole and merged:
            wrong = _far(whole, source, merged.of(name, _wide(source, whole)))
            numbers, file = whole.numbers, whole.file
        elif whole:
            wrong = _other(whole, source)
            numbers, file = whole.numbers, whole.file
        else:
            yield Complaint(export.name, f"there is no tensor {name}, in any form", AGAIN)
            continue
        if wrong:
            what = f"{wrong:,} of the {numbers:,} numbers of {name} are not those of the model that it was made of"
            yield Complaint(f"{export.name}/{file.name}", what, AGAIN)


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


def _off_their_step(stem: str, made: Stored, whole: torch.Tensor) -> int:
    """How many numbers of a quantised weight are not the nearest to the whole one that their scales have."""
    opening: Any = safe_open
    wrong = 0
    with opening(made.file, framework="pt") as file:
        steps, scales, zeros = (file.get_slice(stem + part) for part in (_STEPS, "scale", "zero_point"))
        for first, last in _pieces(made):
            scale, zero = scales[first:last].float(), zeros[first:last].float()
            grouped = (last - first, scale.shape[1], -1)
            found = (steps[first:last].float().view(grouped) - zero[..., None]) * scale[..., None]
            away = (found - whole[first:last].float().view(grouped)).abs() / scale[..., None]
            wrong += int((~(away <= _NEAREST)).sum())  # also where it is no number
    return wrong


def _pieces(tensor: Stored) -> Iterator[tuple[int, int]]:
    rows = max(_PIECE // max(tensor.numbers // tensor.rows, 1), 1)
    for first in range(0, tensor.rows, rows):
        yield first, min(first + rows, tensor.rows)
