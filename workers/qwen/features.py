"""What the model sees in pictures, kept for the next question about them. It knows no question.

A picture's features are its tokens' embeddings and what DeepStack adds to the first language layers.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from workers.qwen.inputs import patches
from workers.qwen.loading import LoadedModel
from workers.qwen.request import Shown

_PATCHES = 16_384  # that are looked at together: 4 megapixels, or one picture that is larger


@dataclass(frozen=True)
class Features:
    """One picture's. N tokens, width H."""

    embeddings: torch.Tensor  # (N, H)
    deepstack: tuple[torch.Tensor, ...]  # each (N, H)

    @property
    def held_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.embeddings, *self.deepstack))


class FeatureCache:
    """Features of pictures, as many as fit; the longest unused go first. Safe to use from several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """What is kept takes so much memory."""
        return self._bytes

    def get(self, key: bytes) -> Features | None:
        """What was kept under the key."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: bytes, features: Features) -> None:
        """Keep it, unless it is larger than all that fits."""
        with self._lock:
            if key in self._kept or features.held_bytes > self._limit:
                return
            self._kept[key] = features
            self._bytes += features.held_bytes
            while self._bytes > self._limit:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= gone.held_bytes

    def clear(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


def look(
    loaded: LoadedModel, shown: Sequence[Shown], cache: FeatureCache, pixels: Mapping[bytes, torch.Tensor]
) -> tuple[dict[bytes, Features], set[bytes]]:
    """The features of each picture by its key, and which of them the cache had.

    The others are looked at together, a few megapixels at a time. `pixels` are patches that are made already.
    """
    found = {each.key: features for each in shown if (features := cache.get(each.key))}
    kept = set(found)
    missing = {each.key: each for each in shown if each.key not in found}
    for piece in _pieces(list(missing.values())):
        for each, features in zip(piece, _look(loaded, piece, pixels), strict=True):
            found[each.key] = features
            cache.put(each.key, features)
    return found, kept


def _pieces(shown: Sequence[Shown]) -> Iterator[list[Shown]]:
    piece: list[Shown] = []
    held = 0
    for each in shown:
        size = each.grid[1] * each.grid[2]
        if piece and held + size > _PATCHES:
            yield piece
            piece, held = [], 0
        piece.append(each)
        held += size
    if piece:
        yield piece


def _look(loaded: LoadedModel, shown: Sequence[Shown], pixels: Mapping[bytes, torch.Tensor]) -> Iterator[Features]:
    cut = [pixels[each.key] if each.key in pixels else patches(loaded.processor, each) for each in shown]
    seen = loaded.model.model.get_image_features(
        torch.cat(cut).to(loaded.device),
        torch.tensor([each.grid for each in shown], device=loaded.device),
        return_dict=True,
    )
    for at, embeddings in enumerate(seen.pooler_output):
        # Copies: each of these is a window on one tensor for all pictures, and would keep it whole.
        yield Features(embeddings.clone(), tuple(layer[at].clone() for layer in seen.deepstack_features))
