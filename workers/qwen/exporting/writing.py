"""New files of tensors, written as a stream, some side by side. It knows no adapter: only that there are changes.

What keeps its bytes is copied. What changes is computed some rows at a time, so that all that they become stays in the
processor's caches.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import torch

from workers.qwen.checkpoint import refused
from workers.qwen.exporting.changes import Change, Room
from workers.qwen.exporting.digest import Digest
from workers.qwen.exporting.shards import FLOATS, Outline, Shard, Stored, fill

_TOGETHER = 64  # rows: pieces are multiples, so that a matrix product is cut where its own blocks are
_RUN = 1 << 20  # bytes that are copied at a time
_HEARD = 8 << 20  # bytes between two times that one hears of them: some milliseconds


@dataclass(frozen=True)
class Tensor:
    """A tensor that is to be written, where it is read from, and what is done to it."""

    outline: Outline
    source: Stored
    change: Change | None

    @property
    def as_bytes(self) -> bool:
        """Whether it is what it was, bit by bit."""
        return self.change is None and self.source.dtype == self.outline.dtype


def write_files(
    folder: Path,
    shards: Sequence[Shard],
    tensors: Mapping[str, Tensor],
    *,
    piece: int,
    side_by_side: int,
    grown: Callable[[Shard, int], None],
    finished: Callable[[Shard, str], None],
) -> None:
    """Write each file under the name `<name>.partial`.

    `piece` is how many numbers are computed at a time, and `side_by_side` how many files are written at once. After
    each part `grown` hears how many bytes of tensors it was, and at a file's end `finished` its SHA-256: both are
    called by the thread that called this, and may raise, which ends it. Raises `InvalidInput` where a number does not
    fit into the type that is wanted.
    """
    events: SimpleQueue[tuple[Shard, int | str | BaseException]] = SimpleQueue()
    stop = threading.Event()

    def write(shard: Shard) -> None:
        try:
            with Digest(folder / f"{shard.name}.partial") as digest:
                count = 0
                for more in _written(shard, tensors, digest, piece):
                    if stop.is_set():
                        return
                    count += more
                    if count >= _HEARD:
                        events.put((shard, count))
                        count = 0
            events.put((shard, count))
            events.put((shard, digest.hex))
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that waits
            events.put((shard, error))

    with ThreadPoolExecutor(side_by_side, "writing") as threads:
        try:
            for shard in shards:
                threads.submit(write, shard)
            left = len(shards)
            while left:
                shard, event = events.get()
                if isinstance(event, int):
                    grown(shard, event)
                elif isinstance(event, str):
                    finished(shard, event)
                    left -= 1
                else:
                    raise event
        finally:
            stop.set()
            threads.shutdown(cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch compute by the thread that asks alone.

    Its own threads wait for one another by turning round, which takes the cores from the digests and from all others:
    where other programs run, a merge then takes seven times the processor's time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- one file -------------------------------------------------------------------------------------------------


def _written(shard: Shard, tensors: Mapping[str, Tensor], digest: Digest, piece: int) -> Iterator[int]:
    """Write a file, and tell after each part how many bytes of tensors it was."""
    header = digest.buffer(len(shard.header))
    header[:] = shard.header
    digest.put(header)
    for outline in shard.tensors:
        tensor = tensors[outline.name]
        yield from _copied(tensor.source, digest) if tensor.as_bytes else _computed(tensor, digest, piece)


def _copied(source: Stored, digest: Digest) -> Iterator[int]:
    with source.file.open("rb", buffering=0) as file:
        file.seek(source.at)
        for at in range(0, source.bytes, _RUN):
            part = digest.buffer(min(_RUN, source.bytes - at))
            fill(file.fileno(), part)
            digest.put(part)
            yield len(part)


def _computed(tensor: Tensor, digest: Digest, piece: int) -> Iterator[int]:
    source, into = tensor.source, FLOATS[tensor.outline.dtype]
    wide, room = torch.promote_types(FLOATS[source.dtype], into), Room()
    for first, last, numbers in source.pieces(piece, _TOGETHER):
        part = digest.buffer(numbers.numel() * into.itemsize)
        made = torch.frombuffer(part, dtype=into).view(numbers.shape)
        if tensor.change:
            tensor.change(numbers.to(wide), first, last, made, room)
        else:
            made.copy_(numbers)
        if not _is_finite(made):
            what = f"the tensor {tensor.outline.name} holds NaN, infinity, or a number too large for {into}"
            raise refused(source.file.parent.name, what.replace("torch.", ""), "choose another dtype, or train again")
        digest.put(part)
        yield len(part)


def _is_finite(numbers: torch.Tensor) -> bool:
    """Whether none is NaN or infinite. One that is makes the sum so, which is found twenty times as fast."""
    return bool(torch.isfinite(numbers.sum()) or torch.isfinite(numbers).all())
