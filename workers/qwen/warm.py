"""Models that stay in memory between questions, as many as there is room for. It knows no job and no model's inside.

A model is pinned while somebody holds it, or one that shares its tensors. What nobody holds goes, the longest unused
first, when another needs room; of a base and what shares it, the base goes last.
"""

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

import torch

from vlyard.errors import InvalidInput
from workers.qwen.loading import LoadedModel, memory_needed, memory_needed_beside
from workers.qwen.memory import give_back_freed_memory
from workers.qwen.placement import memory_for_models
from workers.qwen.sharing import bytes_beside

_PATIENCE = 0.1  # seconds between two looks for a stop, while somebody else has what is needed


_Files: TypeAlias = tuple[tuple[str, int, int], ...]  # name, time of the last change in ns, bytes


@dataclass(frozen=True)
class Source:
    """Where a model comes from, and what it runs on. Equal sources are one model, until its files are replaced."""

    folder: Path
    adapter: Path | None = None
    gpus: int = 1
    revision: str | None = None  # of the model hub that it came from
    files: _Files = ()  # of the folder, and of the adapter's
    adapter_files: _Files = ()
    notes: tuple[str, ...] = field(default=(), compare=False)  # what is worth knowing about how it was named

    def as_found(self) -> "Source":
        """With what its files are now: whoever replaces weights under a name gets the new ones."""
        return replace(self, files=_files(self.folder), adapter_files=_files(self.adapter))

    @property
    def base(self) -> "Source | None":
        """The model whose tensors this one shares; None where it has all of its own.

        A model that is spread over several cards is held together by hooks, which only one model can have.
        """
        return Source(self.folder, None, 1, self.revision, self.files) if self.adapter and self.gpus == 1 else None


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
    base: "_Resident[T] | None" = None  # whose tensors it shares
    pins: int = 0
    beside: int = 0  # bytes that what is kept with it may take

    @property
    def weights(self) -> int:
        return self.loaded.bytes - self.loaded.shared_bytes

    @property
    def bytes(self) -> int:
        return self.weights + self.beside


class WarmModels(Generic[T]):
    """The models of this process. Safe to use from several threads; one model is loaded at a time."""

    def __init__(
        self,
        limit_bytes: int,
        load: Callable[[Source, LoadedModel | None], LoadedModel],
        attach: Callable[[LoadedModel], T],
        fair_after: float = 10.0,
        beside: int = 0,
    ) -> None:
        """`load` is given the base in memory for a model that shares it, and None for others.

        `limit_bytes` is what the models may take together, each with its weights and the `beside` bytes that what is
        attached to it may grow to; 0: 85 % of the GPUs, or half of the machine.
        Once somebody waited `fair_after` seconds for room, others wait, too, and take no model that is in memory.
        """
        self._limit, self._fair_after = limit_bytes or memory_for_models(), fair_after
        self._load, self._attach, self._beside = load, attach, beside
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
        resident, warm = self._pin(source.as_found(), check)
        waited = 0.0 if warm else time.monotonic() - began
        try:
            yield Held(resident.loaded, resident.attached, warm, waited)
        finally:
            with self._changed:
                for each in (resident, resident.base):
                    if each is not None:
                        each.pins -= 1
                self._changed.notify_all()
            del resident, each  # its memory is given back when it is evicted, not when this frame goes

    def unload(self) -> None:
        """Give back the memory of every model that nobody holds."""
        with self._changed:
            leaving = self._take_out(self._limit)
        _give_back(leaving)

    @property
    def bytes(self) -> int:
        """What the weights in memory take."""
        with self._changed:
            return sum(each.weights for each in self._residents.values())

    def _pin(self, source: Source, check: Callable[[], None]) -> tuple[_Resident[T], bool]:
        warm, needs, began = True, dict[Source, int](), time.monotonic()
        try:
            while True:
                check()
                self._expect_no_refusal(source, began)
                for each in self._missing(source):
                    if each not in needs:
                        needs[each] = self._need(each)
                with self._changed:
                    resident = self._residents.get(source)
                    if resident is not None and (not warm or self._may_enter()):
                        self._use(source, resident)
                        return resident, warm
                    if resident is None:
                        warm = False
                        missing = self._missing(source)
                        if not needs.keys() >= set(missing):  # one left a moment ago
                            continue
                        base = self._base_of(source)
                        need = sum(needs[each] for each in missing)
                        if self._has_room(need, base):
                            self._loading = True
                            if base is not None:
                                base.pins += 1
                            leaving = self._take_out(need)
                            break
                    self._changed.wait(_PATIENCE)
        finally:
            self._waits_for_room.pop(threading.get_ident(), None)
        return self._bring_in(source, base, leaving), False

    def _missing(self, source: Source) -> Sequence[Source]:
        """What has to be loaded for it, in that order."""
        wanted = (source.base, source) if source.base else (source,)
        return [each for each in wanted if each not in self._residents]

    def _base_of(self, source: Source) -> _Resident[T] | None:
        return self._residents.get(source.base) if source.base else None

    def _need(self, source: Source) -> int:
        """How many bytes it takes of its own, with what is kept with it."""
        return self._weights_of(source) + self._beside

    def _weights_of(self, source: Source) -> int:
        base = self._base_of(source)
        if source.base is None or source.adapter is None:
            return memory_needed(source.folder)
        if base is None:
            return memory_needed_beside(source.folder, source.adapter)
        return bytes_beside(base.loaded, source.adapter)

    def _use(self, source: Source, resident: _Resident[T]) -> None:
        """Pin it, and what it shares. A base stands behind all that share it, so that they leave before it."""
        for place, each in ((source, resident), (source.base, resident.base)):
            if place is not None and each is not None:
                each.pins += 1
                self._residents.move_to_end(place)

    def _bring_in(self, source: Source, base: _Resident[T] | None, leaving: list[_Resident[T]]) -> _Resident[T]:
        """Load a model, already pinned with its base, once those that leave for it have left."""
        try:
            _give_back(leaving)
            if base is None and source.base is not None:
                base = self._load_one(source.base, None)
            return self._load_one(source, base)
        except BaseException as error:
            with self._changed:
                if base is not None:
                    base.pins -= 1
            if isinstance(error, InvalidInput):
                self._refusal = (source, error, time.monotonic())
            raise
        finally:
            with self._changed:
                self._loading = False
                self._changed.notify_all()

    def _load_one(self, source: Source, base: _Resident[T] | None) -> _Resident[T]:
        loaded = self._load(source, base.loaded if base else None)
        resident = _Resident(loaded, self._attach(loaded), base, pins=1, beside=self._beside)
        with self._changed:
            self._residents[source] = resident
            if source.base is not None:
                self._residents.move_to_end(source.base)
        return resident

    def _expect_no_refusal(self, source: Source, since: float) -> None:
        """Raises why the model was refused while its caller waited: reading it once more would not go better."""
        if self._refusal is not None and self._refusal[0] == source and self._refusal[2] > since:
            raise InvalidInput(self._refusal[1].message, self._refusal[1].complaints)

    def _may_enter(self) -> bool:
        """Whether a model in memory may be taken although another waits until all are free."""
        oldest = min(self._waits_for_room.values(), default=None)
        return oldest is None or time.monotonic() - oldest < self._fair_after

    def _has_room(self, need: int, base: _Resident[T] | None) -> bool:
        """Whether a model may be loaded now beside its base; who may not for want of room, is remembered to wait."""
        if self._loading:
            return False
        others = [each for each in self._residents.values() if each.pins and each is not base]
        if not others or sum(each.bytes for each in others) + (base.bytes if base else 0) + need <= self._limit:
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
        return sum(each.bytes for each in self._residents.values())


def _files(folder: Path | None) -> _Files:
    """Nothing where there is no such folder: who loads it says so."""
    if folder is None or not folder.is_dir():
        return ()
    found = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


def _give_back(leaving: list[_Resident[T]]) -> None:
    """Close and forget; empties the list, which holds the last references."""
    if not leaving:
        return
    while leaving:
        leaving.pop(0).attached.close()
    gc.collect()  # a model refers to itself in many places
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back_freed_memory()
