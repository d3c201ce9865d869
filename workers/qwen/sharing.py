"""A model with an adapter that shares the memory of its base. It reads no checkpoint, and knows no job.

The two are models of their own: each can be asked while the other is, and the base never changes. Only what the
adapter brings takes memory: matrices beside the language model's layers, new tensors where it changes others.
"""

import copy
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workers.qwen.adapters import added_bytes, check_adapter, put_beside, replaced
from workers.qwen.loading import LoadedModel, Model, as_trained
from workers.qwen.memory import naming_out_of_memory


def put_on(base: LoadedModel, adapter: Path) -> LoadedModel:
    """A second model: the base's tensors with an adapter on them. Nothing of the base is read from the disk.

    Raises `InvalidInput` where the adapter is none for this base, and `OutOfMemory`.
    """
    began = time.monotonic()
    notes = check_adapter(adapter, base.model, base.name)
    processor, system = as_trained(adapter, base.processor, base.system)
    model = naming_out_of_memory(lambda: put_beside(adapter, _second(base.model, replaced(adapter))))
    own = _own_bytes(model, base.model)
    return replace(
        base,
        model=model,
        processor=processor,
        system=system,
        name=f"{base.name} with {adapter.name}",
        load_seconds=time.monotonic() - began,
        bytes=base.bytes + own,
        shared_bytes=base.bytes,
        notes=(*base.notes, *notes),
    )


def bytes_beside(base: LoadedModel, adapter: Path) -> int:
    """What an adapter will take beside a base that is in memory, about. Raises `InvalidInput`."""
    check_adapter(adapter, base.model, base.name)
    weights = {name: tensor.numel() * tensor.element_size() for name, tensor in base.model.named_parameters()}
    return added_bytes(adapter, weights, base.dtype.itemsize)


def _second(model: Model, apart: Collection[str]) -> Model:
    """The same modules again over the same memory, but for the parameters of these names, which are copied.

    Its parameters are objects of their own: giving one of them other data does not change the first model's.
    """
    seen: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    copied = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in apart}
    for parameter in model.parameters():
        data = parameter.detach().clone() if id(parameter) in copied else parameter.detach()
        seen[id(parameter)] = nn.Parameter(data, requires_grad=False)
    return copy.deepcopy(model, seen)


def _own_bytes(model: Model, base: Model) -> int:
    shared = {tensor.data_ptr() for tensor in _tensors(base)}
    own = {each.data_ptr(): each.numel() * each.element_size() for each in _tensors(model)}
    return sum(size for address, size in own.items() if address not in shared)


def _tensors(model: Model) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()
