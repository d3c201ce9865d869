"""Weights in safetensors files: where each tensor lies, and how tensors are laid out in new files.

It knows no adapter. The format: the header's length in 8 bytes, little-endian, the header as JSON, the tensors
(https://github.com/huggingface/safetensors#format).
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workers.qwen.checkpoint import INDEX, WEIGHTS, headers, weight_files

# The format's names of floats. Others are carried as bytes.
FLOATS: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in FLOATS.items()}
_ALIGNED = 8  # bytes: the tensors begin where any of them may


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, to be read in pieces."""

    file: Path
    at: int  # bytes from the file's beginning
    bytes: int
    dtype: str  # as the format writes it
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """How many of its first dimension there are; 1 where it has none."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        return self.bytes // max(self.rows, 1)

    def read(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows `first` to `last` of a tensor of floats, (last - first, ...), in memory of their own."""
        content = bytearray(((self.rows if last is None else last) - first) * self.row_bytes)
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.at + first * self.row_bytes)
            fill(file.fileno(), memoryview(content))
        return self._floats(memoryview(content))

    def pieces(self, most: int, together: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """All rows of a tensor of floats, some at a time: the first, the one behind the last, and they themselves.

        `most` is how many numbers a piece has, in rows that are a multiple of `together`, of which there is at least
        one. Each piece lies in the memory of the one before.
        """
        width = max(self.row_bytes // FLOATS[self.dtype].itemsize, 1)
        rows = max(most // width // together * together, together)
        memory = memoryview(bytearray(min(rows, self.rows) * self.row_bytes))
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.at)
            for first in range(0, self.rows, rows):
                last = min(first + rows, self.rows)
                part = memory[: (last - first) * self.row_bytes]
                fill(file.fileno(), part)
                yield first, last, self._floats(part)

    def _floats(self, content: memoryview) -> torch.Tensor:
        dtype = FLOATS[self.dtype]
        numbers = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return numbers.view(-1, *self.shape[1:]) if self.shape and content else numbers.view(self.shape)


@dataclass(frozen=True)
class Outline:
    """A tensor that is to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Shard:
    """A file that is to be written: its header, then these tensors without gaps."""

    name: str
    tensors: tuple[Outline, ...]

    @property
    def header(self) -> bytes:
        """The bytes before the first tensor."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # whose layout it is: transformers asks
        at = 0
        for each in self.tensors:
            entries[each.name] = {"dtype": each.dtype, "shape": each.shape, "data_offsets": [at, at + each.bytes]}
            at += each.bytes
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNED)
        return len(text).to_bytes(8, "little") + text

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.tensors)


def stored_tensors(folder: Path) -> Mapping[str, Stored]:
    """Every tensor of a checkpoint's folder, in the order of the files. Raises `InvalidInput`."""
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        found |= tensors_of(file)
    return found


def tensors_of(file: Path) -> Mapping[str, Stored]:
    """Every tensor of one file, in the order of its bytes. Raises `InvalidInput` where the file is damaged."""
    headers(file)  # the format's own library looks at lengths, shapes and types
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        entries = json.loads(content.read(length))
    entries.pop("__metadata__", None)
    return {
        name: Stored(file, 8 + length + start, end - start, entry["dtype"], tuple(entry["shape"]))
        for name, entry in sorted(entries.items(), key=lambda each: each[1]["data_offsets"])
        for start, end in [entry["data_offsets"]]
    }


def lay_out(tensors: Iterable[Outline], most: int) -> Sequence[Shard]:
    """Put tensors into files of at most that many bytes, in their order; a tensor that is larger has one of its own.

    In a file those of the widest type come first, so that each begins at a multiple of its width.
    """
    groups = list(_groups(tensors, most))
    if len(groups) == 1:
        return [Shard(WEIGHTS, _widest_first(groups[0]))]
    names = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    return [Shard(name, _widest_first(group)) for name, group in zip(names, groups, strict=True)]


def index_of(shards: Sequence[Shard]) -> str | None:
    """What `model.safetensors.index.json` says of them; None for a single file, which needs none."""
    if [shard.name for shard in shards] == [WEIGHTS]:
        return None
    tensors = [each for shard in shards for each in shard.tensors]
    sizes = {
        "total_parameters": sum(each.parameters for each in tensors),
        "total_size": sum(each.bytes for each in tensors),
    }
    places = {each.name: shard.name for shard in shards for each in shard.tensors}
    return json.dumps({"metadata": sizes, "weight_map": places}, indent=2, sort_keys=True) + "\n"


def is_weights(name: str) -> bool:
    """Whether a file of that name holds weights, or says where they are."""
    return name.endswith(".safetensors") or name == INDEX


def fill(descriptor: int, view: memoryview) -> None:
    """Read until the view is full. Raises `EOFError` where the file ends before."""
    while view:
        count = os.readv(descriptor, [view])
        if not count:
            raise EOFError(f"the file ends {len(view)} bytes too early")
        view = view[count:]


def _groups(tensors: Iterable[Outline], most: int) -> Iterator[list[Outline]]:
    group: list[Outline] = []
    taken = 0
    for each in tensors:
        needs = each.bytes + len(Shard("", (each,)).header) + _DIGITS
        if group and taken + needs > most:
            yield group
            group, taken = [], 0
        group.append(each)
        taken += needs
    yield group


_DIGITS = 2 * len(str(2**63))  # a tensor's offsets are longer where others precede it


def _widest_first(group: Iterable[Outline]) -> tuple[Outline, ...]:
    return tuple(sorted(group, key=lambda each: -(each.bytes // max(each.parameters, 1))))
