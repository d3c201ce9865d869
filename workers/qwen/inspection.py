"""A checkpoint that comes from somewhere else, looked at as a whole before it is taken in. It reads no weights.

1. what must not be there: pickles, code, configurations that ask for code   2. what must be there   3. the headers of
the weights beside the index, and beside the model's own shapes   4. the processor, read as it will be in use

Everything that is wrong is told at once.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from vlyard.errors import Complaint, InvalidInput
from workers.qwen import adapters
from workers.qwen.checkpoint import _FILES as NEEDED
from workers.qwen.checkpoint import (
    CONFIG,
    INDEX,
    PICKLES,
    WEIGHTS,
    Header,
    check_architecture,
    headers,
    read_json,
    weight_files,
)
from workers.qwen.checkpoint import _missing as what_is_missing
from workers.qwen.loading import unfitting_words
from workers.qwen.manifest import read_manifest

SUMS = "SHA256SUMS"  # a digest and a name in each line, as sha256sum writes them
ARCHITECTURE = "Qwen3VLForConditionalGeneration"
DTYPES: Mapping[str, str] = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}  # as safetensors and as we write them
MIXED = "mixed"

_REFUSED = "The model cannot be imported"
_CODE = ("*.py", "*.pyc", "*.so", "*.dll")
_MORE_PICKLES = ("*.pickle", "*.npy", "*.npz", "*.h5", "*.msgpack")
_OTHERS = frozenset({"merges.txt", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", SUMS})
_ASKS_FOR_CODE = "auto_map"  # https://huggingface.co/docs/transformers/custom_models
_MOST = 20  # complaints of one sort
_FEW = 5  # names in one complaint


@dataclass(frozen=True)
class Inspected:
    """What a sound checkpoint is, and the files that it consists of, relative to its folder."""

    architecture: str
    parameters: int
    dtype: str  # bf16, fp16, fp32, or mixed
    files: Sequence[str]
    left_out: Sequence[str]  # what else lies there, and is no part of it


class _Found(NamedTuple):
    """A tensor of the weights, and the file that it is in."""

    header: Header
    file: str


def inspect(folder: Path) -> Inspected:
    """Look at a complete checkpoint without reading its weights.

    Raises `InvalidInput` with a complaint for everything that is wrong with it, each with the file and the tensor.
    """
    if (folder / adapters.CONFIG).is_file() and not (folder / CONFIG).is_file():
        what = "it is an adapter alone"
        raise InvalidInput(_REFUSED, [Complaint(folder.name, what, "import its base, or what an export made of both")])
    complaints = [*dangers_of(folder)]
    dangers = len(complaints)
    with _gathered(complaints):
        check_architecture(folder)
    with _gathered(complaints):
        read_manifest(folder)
    complaints += _lacks(folder)
    tensors = _tensors(folder, complaints)
    model = None
    if len(complaints) == dangers:  # else the rest would say the same again, in more words
        complaints += _numbers(folder, tensors)
        model = _skeleton(folder, tensors, complaints)
    if model is not None:
        complaints += _strangers(folder, model, tensors)
        complaints += [] if dangers else _processing(folder, model)
    if complaints or model is None:
        raise InvalidInput(_REFUSED, complaints)
    kept, left_out = _parts(folder)
    dtypes = {DTYPES[found.header.dtype] for found in tensors.values()}
    parameters = sum(tensor.numel() for tensor in model.parameters())
    return Inspected(ARCHITECTURE, parameters, dtypes.pop() if len(dtypes) == 1 else MIXED, kept, left_out)


def compare_sums(folder: Path, digests: Mapping[str, str]) -> None:
    """Compare the files of a checkpoint, given by their SHA-256, with its list of sums where it brings one.

    Raises `InvalidInput` that names every file that is another one, or is not there.
    """
    if not (folder / SUMS).is_file():
        return
    complaints = []
    for number, line in enumerate((folder / SUMS).read_text("utf-8", "replace").splitlines(), 1):
        found = re.fullmatch("([0-9a-f]{64}) [ *](.+)", line)
        where = f"{folder.name}/{SUMS}:{number}"
        if found is None:
            complaints.append(Complaint(where, "it is no SHA-256 with a name", "write it anew with sha256sum"))
        elif found[2] in digests and digests[found[2]] != found[1]:
            complaints.append(Complaint(f"{folder.name}/{found[2]}", f"it is not what {SUMS} says", "copy it again"))
        elif found[2] not in digests and not (folder / found[2]).is_file():
            complaints.append(Complaint(where, f"there is no file {found[2]}", "copy the whole checkpoint"))
    if complaints:
        raise InvalidInput(_REFUSED, complaints)


@contextmanager
def _gathered(complaints: list[Complaint]) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        complaints += error.complaints


# --- what must not be there -----------------------------------------------------------------------------------


def dangers_of(folder: Path) -> Iterator[Complaint]:
    """Pickles, code, and configurations that ask for code."""
    for path in _matching(folder, PICKLES + _MORE_PICKLES):
        what = "it is no safetensors file, and may be a pickle, which can run code when it is read"
        yield Complaint(f"{folder.name}/{path}", what, "save the weights as safetensors, and leave this out")
    for path in _matching(folder, _CODE):
        yield Complaint(f"{folder.name}/{path}", "it is code, and no code of a model is run", "leave it out")
    for name in sorted(path.name for path in folder.glob("*.json")):
        if name.endswith(".index.json"):
            continue
        for pointer in _askers(_read(folder / name)):
            what = f"{pointer} asks for code that comes with the model, and none is run"
            yield Complaint(f"{folder.name}/{name}", what, "import the model as transformers itself has it")


def _matching(folder: Path, patterns: Sequence[str]) -> list[str]:
    found = {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.rglob(pattern)}
    return sorted(found)


def _read(path: Path) -> Any:
    """What a JSON file holds; nothing where it cannot be read: who needs it says so."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _askers(content: Any, pointer: str = "", depth: int = 0) -> Iterator[str]:
    """Where a configuration asks for code, at the top or in one of its parts."""
    if not isinstance(content, dict) or depth > 4:
        return
    for key, value in content.items():
        if key == _ASKS_FOR_CODE and isinstance(value, dict | list):  # in a vocabulary it is a word with a number
            yield f"{pointer}/{key}"
        yield from _askers(value, f"{pointer}/{key}", depth + 1)


def _lacks(folder: Path) -> Iterator[Complaint]:
    for alternatives in NEEDED:
        if not any(all((folder / name).is_file() for name in names) for names in alternatives):
            what, fix = what_is_missing(folder, alternatives)
            yield Complaint(folder.name, what, fix)


# --- the weights ----------------------------------------------------------------------------------------------


def _tensors(folder: Path, complaints: list[Complaint]) -> Mapping[str, _Found]:
    """Every tensor by its name, as the headers and, where there are several files, the index have it."""
    files: Sequence[Path] = ()
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        with _gathered(complaints):
            files = weight_files(folder)
    tensors: dict[str, _Found] = {}
    for file in files:
        with _gathered(complaints):
            for name, header in headers(file).items():
                if name in tensors:
                    what = f"the tensor {name} is in {tensors[name].file}, too"
                    complaints.append(Complaint(f"{folder.name}/{file.name}", what, "save the model again"))
                tensors[name] = _Found(header, file.name)
    if files and not (folder / WEIGHTS).is_file() and not complaints:
        complaints += _beside_the_index(folder, tensors)
    return tensors


def _beside_the_index(folder: Path, tensors: Mapping[str, _Found]) -> list[Complaint]:
    named = read_json(folder / INDEX)["weight_map"]
    where, fix = f"{folder.name}/{INDEX}", "copy the checkpoint again"
    wrong = [name for name, file in named.items() if name in tensors and tensors[name].file != file]
    sorts = {
        "are not in the files that it names": [name for name in named if name not in tensors],
        "are in another file than it says": wrong,
        "are in its files, and it does not name them": [name for name in tensors if name not in named],
    }
    return [Complaint(where, f"{_count(names)} {what}", fix) for what, names in sorts.items() if names]


def _skeleton(folder: Path, tensors: Mapping[str, _Found], complaints: list[Complaint]) -> Any:
    """The model without its weights; None where the configuration describes none."""
    where, content = f"{folder.name}/{CONFIG}", read_json(folder / CONFIG)
    if content.get("quantization_config"):
        complaints.append(Complaint(where, "the weights are quantised", "import the whole ones"))
        return None
    architectures = content.get("architectures") or [ARCHITECTURE]
    if architectures != [ARCHITECTURE]:
        what = f"the architecture is {', '.join(map(str, architectures))}, not {ARCHITECTURE}"
        complaints.append(Complaint(where, what, "give a Qwen3-VL model that answers"))
        return None
    make: Any = Qwen3VLForConditionalGeneration
    try:
        config: Any = Qwen3VLConfig.from_pretrained(folder, local_files_only=True)
        _expect_tensors_for(config.text_config.num_hidden_layers + config.vision_config.depth, tensors)
        with torch.device("meta"):
            return make(config)
    except Exception as error:  # noqa: BLE001  # what a wrong number in it does to transformers is not foreseeable
        complaints.append(Complaint(where, f"it describes no model: {_first_line(error)}", "copy the checkpoint again"))
        return None


def _expect_tensors_for(layers: int, tensors: Mapping[str, _Found]) -> None:
    if layers > len(tensors):  # before memory is spent on all of them
        raise ValueError(f"it has {layers} layers, and there are {len(tensors)} tensors")


def _strangers(folder: Path, model: Any, tensors: Mapping[str, _Found]) -> Iterator[Complaint]:
    """What the weights lack, what they have too much, and what has another shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    fix = "copy the checkpoint again, with the config.json that belongs to it"
    if lacking := [name for name in shapes if name not in tensors and name not in tied]:
        yield Complaint(folder.name, f"the weights lack {_count(lacking)}", fix)
    if strange := [name for name in tensors if name not in shapes]:
        yield Complaint(folder.name, f"the model has no place for {_count(strange)}", fix)
    wrong = [name for name in tensors if name in shapes and tensors[name].header.shape != shapes[name]]
    for name in wrong[:_MOST]:
        header, file = tensors[name]
        what = f"the tensor {name} has the shape {_shape(header.shape)}, and the model has {_shape(shapes[name])}"
        yield Complaint(f"{folder.name}/{file}", what, fix)
    if len(wrong) > _MOST:
        yield Complaint(folder.name, f"{len(wrong) - _MOST} more tensors have another shape than the model", fix)


def _numbers(folder: Path, tensors: Mapping[str, _Found]) -> Iterator[Complaint]:
    wrong = {name: found for name, found in tensors.items() if found.header.dtype not in DTYPES}
    for dtype in sorted({found.header.dtype for found in wrong.values()}):
        names = [name for name, found in wrong.items() if found.header.dtype == dtype]
        what = f"{_count(names)} in {dtype}"
        yield Complaint(folder.name, what, f"save the weights as one of {', '.join(DTYPES.values())}")


# --- the rest -------------------------------------------------------------------------------------------------


def _processing(folder: Path, model: Any) -> Iterator[Complaint]:
    """Whether processor and tokenizer can be read, and fit the model."""
    fix = "copy processor and tokenizer again"
    try:
        processor = Qwen3VLProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  # these files are read by several libraries
        yield Complaint(folder.name, f"its processor cannot be read: {_first_line(error)}", fix)
        return
    if not processor.chat_template:
        yield Complaint(folder.name, "it has no chat template", "copy chat_template.jinja too, or chat_template.json")
    for what in unfitting_words(processor, model.config):
        yield Complaint(folder.name, what, fix)


def _parts(folder: Path) -> tuple[list[str], list[str]]:
    """The files that a checkpoint consists of, and the others."""
    weights = {path.name for path in weight_files(folder)}
    if (folder / INDEX).is_file() and WEIGHTS not in weights:
        weights.add(INDEX)
    every = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = [name for name in every if name in weights or _belongs(name)]
    return kept, [name for name in every if name not in kept]


def _belongs(name: str) -> bool:
    """Whether a file that holds no weights is part of a checkpoint."""
    path = Path(name)
    if len(path.parts) > 1 or name.startswith(".") or name.endswith(".index.json"):
        return False
    return path.suffix in {".json", ".jinja"} or name in _OTHERS


def _count(names: Sequence[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"{len(names)} tensor{'s' * (len(names) != 1)}: {', '.join(names[:_FEW])}{more}"


def _shape(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes)) or "of one number"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
