"""A base and an adapter become one checkpoint, as a stream: a few million numbers are in memory at a time.

It knows the weights alone. What no adapter touches, and what keeps its type, is copied as bytes. A merge that was
killed goes on behind its last finished file; the same input gives the same bytes.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from workers.qwen.checkpoint import CONFIG, INDEX, check_architecture, read_json, refused
from workers.qwen.exporting.changes import NOTHING, Changes, changes_of, skeleton_of
from workers.qwen.exporting.journal import Journal, fingerprint
from workers.qwen.exporting.shards import FLOATS, Outline, Shard, Stored, index_of, is_weights, lay_out, stored_tensors
from workers.qwen.exporting.tying import WORDS_IN, WORDS_OUT, are_tied, says_tied
from workers.qwen.exporting.writing import Tensor, one_thread_each, write_files

Dtype = Literal["bf16", "fp16", "fp32"]
STORED: Mapping[str, str] = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}  # as the format of the files says it
_SAID = {"F64": "fp64", **{stored: said for said, stored in STORED.items()}}

_MOST_SIDE_BY_SIDE = 4  # files: more are written no faster by any disk


@dataclass(frozen=True)
class Merging:
    """What is wanted of the weights."""

    dtype: Dtype | None = None  # of all floats; None: each keeps its own
    shard_bytes: int = 5_000_000_000  # of a file, unless one tensor is larger
    piece: int = 1 << 18  # numbers that are computed at a time: with all that they become they stay in a core's cache


@dataclass(frozen=True)
class Merged:
    """What the weights became."""

    parameters: int
    bytes: int  # of the tensors
    dtype: str  # of the floats: `bf16`, `fp16`, `fp32` or `fp64`, or `mixed`
    merged: bool
    tied: bool  # the words that come out have the weights of those that go in
    sums: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each file of weights


@one_thread_each()
def merge(
    base: Path,
    adapter: Path | None,
    output: Path,
    options: Merging,
    *,
    told: Callable[[float, str], None],
    check: Callable[[], None],
    journal: Path | None = None,
    side_by_side: int | None = None,
) -> Merged:
    """Write a base's weights, with an adapter merged in where there is one, into a folder.

    What a merge of the same left there when it was killed is gone on with. Every tensor is that of PEFT's
    `merge_and_unload` on the base in its own dtype, bit by bit. Only where a matrix product is computed in pieces
    (`options.piece`), its library may choose another order of adding, which shows in the last bit. Where
    another dtype is wanted, the wider of both is computed in, and rounded to the wanted one at the end. `told` hears
    how much is done, 0 to 1; `check` is called often, and may raise. What is finished is noted in the folder until all
    is, or, for who does more with it and may be killed then, in the file `journal`, which stays. Of several files
    `side_by_side` are written at once, by default one for every two cores: one computes, and one makes the digest.

    Raises `InvalidInput` before anything is written where the base or the adapter is not understood, and while it is
    written where a number does not fit into the dtype.
    """
    check_architecture(base)
    stored = stored_tensors(base)
    tied = are_tied(base, stored)
    skeleton = skeleton_of(base, tied=tied)
    _expect_complete(base, stored, skeleton)
    changes = changes_of(adapter, skeleton, base.name) if adapter else NOTHING
    tensors = _tensors(stored, changes, options.dtype, tied=tied)
    _expect_floats(base, tensors)
    shards = lay_out([each.outline for each in tensors.values()], options.shard_bytes)
    output.mkdir(parents=True, exist_ok=True)
    notes = Journal(output, fingerprint(base, adapter, options, shards), journal)
    _remove_others(output, shards)
    left = [shard for shard in shards if not notes.has(shard.name)]
    total = max(sum(shard.bytes for shard in shards), 1)
    done = total - sum(shard.bytes for shard in left)

    def grown(shard: Shard, count: int) -> None:
        nonlocal done
        check()
        done += count
        told(done / total, f"writing {shard.name}")

    write_files(
        output,
        left,
        tensors,
        piece=options.piece,
        side_by_side=side_by_side or min(max((os.cpu_count() or 1) // 2, 1), _MOST_SIDE_BY_SIDE),
        grown=grown,
        finished=lambda shard, digest: notes.finished(shard.name, digest),
    )
    sums = _finish(output, shards, notes)
    if journal is None:
        notes.remove()
    return _merged(shards, sums, merged=adapter is not None, tied=tied and not changes.untied)


def _expect_complete(base: Path, stored: Mapping[str, Stored], skeleton: torch.nn.Module) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    tied = {WORDS_OUT} if says_tied(base) else set()
    if read_json(base / CONFIG).get("quantization_config"):
        raise refused(f"{base.name}/{CONFIG}", "its weights are quantised", "give the model that it was made of")
    if lacking := sorted(wanted.keys() - stored.keys() - tied):
        what = f"the weights lack {len(lacking)} tensors, the first is {lacking[0]}"
        raise refused(base.name, what, "copy the checkpoint again")
    for name, tensor in stored.items():
        if name not in wanted:
            raise refused(base.name, f"the tensor {name} is none of the model's", "copy the checkpoint again")
        if tensor.shape != wanted[name]:
            what = f"the tensor {name} has the shape {tensor.shape}, and the model needs {wanted[name]}"
            raise refused(base.name, what, f"copy the checkpoint again, with its {CONFIG}")


def _expect_floats(base: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not (tensor.as_bytes or {tensor.source.dtype, tensor.outline.dtype} <= FLOATS.keys()):
            what = f"the adapter changes the tensor {name}, which is stored in {tensor.outline.dtype}"
            raise refused(base.name, what, "give the base with these weights in bf16, fp16 or fp32")


def _tensors(
    stored: Mapping[str, Stored], changes: Changes, dtype: Dtype | None, *, tied: bool
) -> Mapping[str, Tensor]:
    made = {}
    for name, source in sources_of(stored, changes, tied=tied).items():
        given = stored[name] if name in stored else stored[WORDS_IN]  # words out that were none of their own
        out = STORED[dtype] if dtype and given.dtype in FLOATS else given.dtype
        width = FLOATS[out].itemsize if out in FLOATS else 0
        size = given.bytes // FLOATS[given.dtype].itemsize * width if width else given.bytes
        made[name] = Tensor(Outline(name, out, given.shape, size), source, changes.sums.get(name))
    return made


def sources_of(stored: Mapping[str, Stored], changes: Changes, *, tied: bool) -> Mapping[str, Stored]:
    """Where each tensor of the merged model is read from, before what is added to it: the base, or the adapter.

    `tied` is what `are_tied` says of the base. Words that stay one tensor have one name, as transformers save them.
    """
    found = dict(stored)
    if changes.untied:
        found.setdefault(WORDS_OUT, stored[WORDS_IN])
    elif tied:
        found.pop(WORDS_OUT, None)
    return {name: changes.replaced.get(name, source) for name, source in found.items()}


def _remove_others(output: Path, shards: Sequence[Shard]) -> None:
    """A folder that holds weights of another layout would be read as both."""
    wanted = {shard.name for shard in shards}
    for path in output.iterdir():
        if path.name not in wanted and (is_weights(path.name) or path.suffix == ".partial"):
            path.unlink()


def _finish(output: Path, shards: Sequence[Shard], notes: Journal) -> Mapping[str, str]:
    if index := index_of(shards):
        (output / INDEX).write_text(index, encoding="utf-8")
    return {shard.name: notes.sums[shard.name] for shard in shards}


def _merged(shards: Sequence[Shard], sums: Mapping[str, str], *, merged: bool, tied: bool) -> Merged:
    tensors = [each for shard in shards for each in shard.tensors]
    kinds = {each.dtype for each in tensors if each.dtype in FLOATS}
    return Merged(
        parameters=sum(each.parameters for each in tensors),
        bytes=sum(each.bytes for each in tensors),
        dtype=_SAID[next(iter(kinds))] if len(kinds) == 1 else "mixed",
        merged=merged,
        tied=tied,
        sums=sums,
    )
