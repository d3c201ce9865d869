"""Keys and values of a batch, with room for the tokens to come. It knows no question and no answer.

transformers' own cache is copied whole at every token; this one is only when its room is used up.
"""

from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 128  # tokens that are made room for at a time


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values: (B, heads, length, width), the beginning of tensors with more room."""

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add those of new tokens, (B, heads, new, width); returns all so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            shape = (*key_states.shape[:2], 0, key_states.shape[-1])
            self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
        end = self.length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            more = end + _ROOM - self.keys.shape[-2]
            self.keys, self.values = pad(self.keys, (0, 0, 0, more)), pad(self.values, (0, 0, 0, more))
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length

    def keep(self, rows: torch.Tensor, start: int) -> None:
        """Keep these rows, and of each what begins at the place `start`."""
        here = rows.to(self.keys.device)
        self.keys = self.keys[:, :, start:].index_select(0, here)
        self.values = self.values[:, :, start:].index_select(0, here)
        self.length -= start

    def seat(self, rows: torch.Tensor, other: "RoomyLayer") -> None:
        """Put the other's rows, which are not longer, in the places of these rows: no other row is copied."""
        here, begin = rows.to(self.keys.device), self.length - other.length
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            # Not left as it was: no mask hides what is no number.
            mine[:, :, :begin].index_fill_(0, here, 0)
            mine[:, :, begin : self.length].index_copy_(0, here, theirs[:, :, : other.length])

    def join(self, other: "RoomyLayer", length: int) -> None:
        """Add the other's rows below; both are moved to the right, up to this length."""
        self.keys = torch.cat([_right(layer.keys, layer.length, length) for layer in (self, other)])
        self.values = torch.cat([_right(layer.values, layer.length, length) for layer in (self, other)])
        self.length = length


def roomy_cache(layers: int) -> Cache:
    """An empty cache for a model of so many layers."""
    make: Any = Cache
    cache: Cache = make(layers=[RoomyLayer() for _ in range(layers)])
    return cache


def _right(states: torch.Tensor, held: int, length: int) -> torch.Tensor:
    return pad(states[:, :, :held], (0, 0, length - held, _ROOM))
