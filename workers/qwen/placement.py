"""On which cards a model is put. It knows no model, only how large one is, and how many cards were asked for."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from vlyard.errors import Complaint, InvalidInput, OutOfMemory

_GIB = 2**30

# What is left of a card is for the questions: their tokens' keys and values, and what the layers make on their way.
_FOR_WEIGHTS = 0.85
# Of all memory, for models that wait for their next question. The rest is for the questions, and for others.
_SHARE_OF_CARDS, _SHARE_OF_MACHINE = 0.85, 0.5
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

DeviceMap: TypeAlias = Mapping[str, str | int] | Literal["auto"]


@dataclass(frozen=True)
class Card:
    """A GPU and its memory in bytes."""

    index: int
    free: int
    total: int


@dataclass(frozen=True)
class Placement:
    """Where a model goes; no cards are the CPU."""

    cards: tuple[int, ...] = ()
    bytes_each: int = 0  # how much of it one card may take, where there are several

    @property
    def device_map(self) -> DeviceMap:
        """As transformers takes it."""
        if len(self.cards) > 1:
            return "auto"
        return {"": self.cards[0] if self.cards else "cpu"}

    @property
    def max_memory(self) -> Mapping[int | str, int] | None:
        """As transformers takes it: nothing of a model that is spread over cards may go anywhere else."""
        return {**dict.fromkeys(self.cards, self.bytes_each), "cpu": 0} if len(self.cards) > 1 else None


def place(model_bytes: int, cards: Sequence[Card], gpus: int) -> Placement:
    """The emptiest card, or as many of the emptiest as were asked for; where there are none, the CPU.

    Raises `InvalidInput` that says how many GPUs to ask for where the model is too large for those asked for, and
    `OutOfMemory` where it would fit if they were empty.
    """
    if not cards:
        return Placement()
    if gpus > len(cards):
        fix = f"ask for {len(cards)} at most, or in a pool whose workers see {gpus}, by CUDA_VISIBLE_DEVICES"
        raise _refused(f"this worker sees {len(cards)} GPUs, the job asks for {gpus}", fix)
    chosen = sorted(cards, key=lambda card: (-card.free, card.index))[:gpus]
    if model_bytes > _room(chosen, empty=True):
        raise _too_large(model_bytes, cards, gpus)
    if model_bytes > _room(chosen, empty=False):
        raise OutOfMemory(
            f"the model needs {_gib(model_bytes)}, and {_gib(_room(chosen, empty=False))} are free for it on "
            + ("the card" if gpus == 1 else f"{gpus} cards")
        )
    indexes = tuple(sorted(card.index for card in chosen))
    return Placement(indexes, min(_share(card.free) for card in chosen) if gpus > 1 else 0)


def cards() -> Sequence[Card]:
    """The cards that this process sees, and how much memory is free on each."""
    if not torch.cuda.is_available():
        return ()
    torch.cuda.empty_cache()  # what torch keeps for later counts as taken
    return [Card(index, *torch.cuda.mem_get_info(index)) for index in range(torch.cuda.device_count())]


def memory_for_models() -> int:
    """How many bytes of models a process keeps where nobody said: 85 % of its cards, or half of the machine."""
    found = cards()
    if found:
        return int(_SHARE_OF_CARDS * sum(card.total for card in found))
    return int(_SHARE_OF_MACHINE * _memory_of_machine())


def _memory_of_machine() -> int:
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    granted = _CGROUP_LIMIT.read_text(encoding="ascii").strip() if _CGROUP_LIMIT.is_file() else "max"
    return min(installed, int(granted)) if granted.isdecimal() else installed


def _room(chosen: Sequence[Card], *, empty: bool) -> int:
    """A model is spread evenly, so the smallest card decides for all."""
    return len(chosen) * min(_share(card.total if empty else card.free) for card in chosen)


def _share(memory: int) -> int:
    return int(_FOR_WEIGHTS * memory)


def _too_large(model_bytes: int, cards: Sequence[Card], gpus: int) -> InvalidInput:
    ordered = sorted(cards, key=lambda card: -card.total)
    enough = [n for n in range(1, len(cards) + 1) if model_bytes <= _room(ordered[:n], empty=True)]
    has = f"one card has {_gib(_room(ordered[:1], empty=True))}"
    if gpus > 1:
        has = f"{gpus} cards have {_gib(_room(ordered[:gpus], empty=True))}"
    fix = f"declare gpus: {enough[0]}" if enough else f"this worker's {len(cards)} are too few: use a smaller model"
    return _refused(f"the model needs {_gib(model_bytes)} and {has} for it", fix)


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"


def _refused(what: str, fix: str) -> InvalidInput:
    return InvalidInput("The model does not fit", [Complaint("/spec/gpus", what, fix)])
