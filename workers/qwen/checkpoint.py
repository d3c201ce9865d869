"""A checkpoint's folder, looked at before anything in it is read as weights. It loads nothing.

A folder comes from somebody else: only safetensors are read, and code that lies beside them is never run.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vlyard.errors import Complaint, InvalidInput

MODEL_TYPE = "qwen3_vl"
CONFIG = "config.json"
QUANTISATION = "quantization_config"  # in config.json, where weights are not whole
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

# All files of one set of each line must be there.
_FILES = (
    (("processor_config.json",), ("preprocessor_config.json",)),
    (("tokenizer.json",), ("vocab.json", "merges.txt")),
    (("tokenizer_config.json",),),
    ((WEIGHTS,), (INDEX,)),
)
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of a tensor."""

    shape: tuple[int, ...]
    dtype: str  # as the format writes it: F32, BF16, U8

    def bytes_as(self, float_width: int) -> int:
        """Its bytes in memory once floats are brought to that many bytes each."""
        return math.prod(self.shape) * (float_width if self.dtype in _FLOATS else _WIDTHS.get(self.dtype, 1))


def check_checkpoint(folder: Path) -> None:
    """Look at a checkpoint without reading its weights: the architecture first, then every file that is needed.

    Raises `InvalidInput` that names what is missing, or what is there in its place.
    """
    if not folder.is_dir():
        raise refused(folder.name, "there is no such folder", "put the checkpoint there, or choose another model")
    check_architecture(folder)
    for alternatives in _FILES:
        if not any(all((folder / name).is_file() for name in names) for names in alternatives):
            raise refused(folder.name, *_missing(folder, alternatives))
    weight_files(folder)


def check_architecture(folder: Path) -> None:
    """Look at config.json alone. Raises `InvalidInput` where it is missing, or another model's."""
    if not (folder / CONFIG).is_file():
        raise refused(folder.name, f"it has no {CONFIG}", "copy the whole checkpoint")
    found = read_json(folder / CONFIG).get("model_type", "unknown")
    if found != MODEL_TYPE:
        what = f"the model_type is {found!r}, not {MODEL_TYPE!r}"
        raise refused(f"{folder.name}/{CONFIG}", what, "give a Qwen3-VL model")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights. Raises `InvalidInput` where one is missing or is no safetensors file."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    shards = [folder / name for name in named_weights(folder)]
    for shard in shards:
        if not shard.is_file():
            raise refused(f"{folder.name}/{INDEX}", f"there is no file {shard.name!r}", "copy the checkpoint again")
    return shards


def named_weights(folder: Path) -> list[str]:
    """The files that the index of the weights names. Raises `InvalidInput` where one is no safetensors file."""
    where = f"{folder.name}/{INDEX}"
    entries = read_json(folder / INDEX).get("weight_map")
    if not isinstance(entries, dict) or not entries or not all(isinstance(shard, str) for shard in entries.values()):
        raise refused(where, "it has no weight_map", "copy the checkpoint again")
    shards = sorted(set(entries.values()))
    for shard in shards:
        if not shard.endswith(".safetensors"):
            raise refused(where, f"it names {shard!r}, which is no safetensors file", "save the model as safetensors")
        if Path(shard).name != shard:
            raise refused(where, f"there is no file {shard!r}", "copy the checkpoint again")
    return shards


def headers(file: Path) -> Mapping[str, Header]:
    """Every tensor of a safetensors file by its name, without reading it. Raises `InvalidInput` where it is damaged."""
    return dict(_headers(file))


def weight_bytes(folder: Path, float_width: int) -> int:
    """What the weights take in memory with floats of that many bytes. Raises `InvalidInput`."""
    return sum(parameter_bytes(folder, float_width).values())


def parameter_bytes(folder: Path, float_width: int) -> Mapping[str, int]:
    """The same for every tensor by its name. Raises `InvalidInput`."""
    found = (header for file in weight_files(folder) for header in headers(file).items())
    return {name: header.bytes_as(float_width) for name, header in found}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `InvalidInput` that names the file."""
    where = f"{path.parent.name}/{path.name}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise refused(where, f"it is not JSON: {error}", "copy it again") from None
    if not isinstance(content, dict):
        raise refused(where, "it is not a JSON object", "copy it again")
    return content


def refused(where: str, what: str, fix: str) -> InvalidInput:
    """Why a model cannot be used, for raising."""
    return InvalidInput("The model cannot be used", [Complaint(where, what, fix)])


def _headers(file: Path) -> Iterator[tuple[str, Header]]:
    opening: Any = safe_open
    try:
        with opening(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                cut = tensors.get_slice(name)
                yield name, Header(tuple(cut.get_shape()), cut.get_dtype())
    except (SafetensorError, OSError, ValueError) as damage:
        what = f"it is damaged: {damage}"
        raise refused(f"{file.parent.name}/{file.name}", what, "copy the checkpoint again") from damage


def _missing(folder: Path, alternatives: tuple[tuple[str, ...], ...]) -> tuple[str, str]:
    what = f"it has no {' and no '.join(' with '.join(names) for names in alternatives)}"
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if (WEIGHTS,) in alternatives and pickles:
        return f"{what}, only {', '.join(pickles)}, and a pickle can run code when it is read", "save as safetensors"
    return what, "copy the whole checkpoint"
