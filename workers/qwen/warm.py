"""Models that stay in memory between questions, as many as there is room for. It knows no job and no model's inside.

A model is pinned while somebody holds it. What nobody holds goes, the longest unused first, when another needs room.
"""

import ctypes
import gc
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from vlyard.errors import InvalidInput
from workers.qwen.loading import LoadedModel, memory_needed
from workers.qwen.placement import memory_for_models

_PATIENCE = 0.1  # seconds between two looks for a stop, while somebody else has what is needed


@dataclass(frozen=True)
class Source:
    """Where a model comes from, and what it runs on. Equal sources are one model."""

    folder: Path
    adapter: Path | None = None
    gpus: int = 1
    revision: str | None = None  # of the model hub that it came from


class Attachment(Protocol):
    """What is kept with a model, such as its engine."""

    def close(self) -> None:
        """Let go of the model; called once, when nobody holds it."""


T = TypeVar("T", bound=Attachment)


@dataclass(frozen=True)
class Held(Generic[T]):
    """A model that stays in memory for as long as it is held."""

    loaded: LoadedModel
    attached: T
    warm: bool  # it was in memory when it was asked for
    load_seconds: float  # what its holder waited for it to be loaded; 0 where it was warm


@dataclass
class _Resident(Generic[T]):
    loaded: LoadedModel
    attached: T
    pins: int = 0


class WarmModels(Generic[T]):
    """The models of this process. Safe to use from several threads; one model is loaded at a time."""

    def __init__(
        self,
        limit_bytes: int,
        load: Callable[[Source], LoadedModel],
        attach: Callable[[LoadedModel], T],
        fair_after: float = 10.0,
    ) -> None:
        """`limit_bytes` is what the weights may take together; 0: 85 % of the GPUs, or half of the machine.

        Once somebody waited `fair_after` seconds for room, others wait, too, and take no model that is in memory.
        """
        self._limit, self._fair_after = limit_bytes or memory_for_models(), fair_after
        self._load, self._attach = load, attach
        self._residents: OrderedDict[Source, _Resident[T]] = OrderedDict()  # the longest unused first
        self._changed = threading.Condition()
        # One at a time: while transformers loads, it changes torch's default dtype for all.
        self._loading = False
        self._refusal: tuple[Source, InvalidInput, float] | None = None  # the last one, and when it was
        self._waits_for_room: dict[int, float] = {}  # since when, by thread

    @contextmanager
    def hold(self, source: Source, check: Callable[[], None] = lambda: None) -> Iterator[Held[T]]:
        """The model, pinned for as long as the block lasts; loaded first where it is not in memory.

        Where it does not fit beside the models that others hold, it waits for these; where it does not fit alone, it
        is loaded alone. `check` is called while it waits and ends the waiting by raising. Raises what `load` raises.
        """
        began = time.monotonic()
        resident, warm = self._pin(source, check)
        waited = 0.0 if warm else time.monotonic() - began
        try:
            yield Held(resident.loaded, resident.attached, warm, waited)
        finally:
            with self._changed:
                resident.pins -= 1
                self._changed.notify_all()
            del resident  # its memory is given back when it is evicted, not when this frame goes

    def unload(self) -> None:
        """Give back the memory of every model that nobody holds."""
        with self._changed:
            leaving = self._take_out(self._limit)
        _give_back(leaving)

    @property
    def bytes(self) -> int:
        """What the weights in memory take."""
        with self._changed:
            return self._bytes()

    def _pin(self, source: Source, check: Callable[[], None]) -> tuple[_Resident[T], bool]:
        warm, need, began = True, None, time.monotonic()
        try:
            while True:
                check()
                self._expect_no_refusal(source, began)
                if need is None and source not in self._residents:
                    need = memory_needed(source.folder)
                with self._changed:
                    resident = self._residents.get(source)
                    if resident is not None and (not warm or self._may_enter()):
                        resident.pins += 1
                        self._residents.move_to_end(source)
                        return resident, warm
                    if resident is None:
                        warm = False
                        if need is None:  # it left a moment ago
                            continue
                        if self._has_room(need):
                            self._loading = True
                            leaving = self._take_out(need)
                            break
                    self._changed.wait(_PATIENCE)
        finally:
            self._waits_for_room.pop(threading.get_ident(), None)
        return self._bring_in(source, leaving), False

    def _bring_in(self, source: Source, leaving: list[_Resident[T]]) -> _Resident[T]:
        """Load a model, already pinned, once those that leave for it have left."""
        resident = None
        try:
            _give_back(leaving)
            loaded = self._load(source)
            resident = _Resident(loaded, self._attach(loaded), pins=1)
        except InvalidInput as refusal:
            self._refusal = (source, refusal, time.monotonic())
            raise
        else:
            return resident
        finally:
            with self._changed:
                self._loading = False
                if resident is not None:
                    self._residents[source] = resident
                self._changed.notify_all()

    def _expect_no_refusal(self, source: Source, since: float) -> None:
        """Raises why the model was refused while its caller waited: reading it once more would not go better."""
        if self._refusal is not None and self._refusal[0] == source and self._refusal[2] > since:
            raise InvalidInput(self._refusal[1].message, self._refusal[1].complaints)

    def _may_enter(self) -> bool:
        """Whether a model in memory may be taken although another waits until all are free."""
        oldest = min(self._waits_for_room.values(), default=None)
        return oldest is None or time.monotonic() - oldest < self._fair_after

    def _has_room(self, need: int) -> bool:
        """Whether a model may be loaded now; who may not for want of room, is remembered to wait for it."""
        if self._loading:
            return False
        pinned = sum(each.loaded.bytes for each in self._residents.values() if each.pins)
        if not pinned or pinned + need <= self._limit:
            return True
        self._waits_for_room.setdefault(threading.get_ident(), time.monotonic())
        return False

    def _take_out(self, need: int) -> list[_Resident[T]]:
        """Those that nobody holds, the longest unused first, until there is room for so many bytes."""
        leaving = []
        for source, resident in list(self._residents.items()):
            if resident.pins == 0 and self._bytes() + need > self._limit:
                leaving.append(self._residents.pop(source))
        return leaving

    def _bytes(self) -> int:
        return sum(each.loaded.bytes for each in self._residents.values())


def _give_back(leaving: list[_Resident[T]]) -> None:
    """Close and forget; empties the list, which holds the last references."""
    if not leaving:
        return
    while leaving:
        leaving.pop().attached.close()
    gc.collect()  # a model refers to itself in many places
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone: it keeps freed memory for itself
        if trim is not None:
            trim(0)
