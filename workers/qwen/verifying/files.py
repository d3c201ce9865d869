"""An export's files, looked at without reading its weights as numbers: what is there, and whether it is as written."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from vlyard.errors import Complaint, InvalidInput
from workers.qwen.checkpoint import CONFIG, QUANTISATION, headers, read_json, weight_files
from workers.qwen.exporting.digest import sha256_of
from workers.qwen.exporting.folder import LICENSES, SUMS, read_sums
from workers.qwen.exporting.shards import stored_tensors
from workers.qwen.exporting.tying import are_tied, says_tied
from workers.qwen.inspection import dangers_of, inspect

AGAIN = "export it again"

_KINDS = frozenset({".json", ".jinja", ".txt", ".md", ".safetensors"})
_BY_NAME = frozenset({SUMS, *LICENSES})
_NEEDED = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    SUMS,
)
# What an export may say otherwise than its base.
_OWN = frozenset({"dtype", "torch_dtype", "tie_word_embeddings", "transformers_version", QUANTISATION})
# What is asked for, and no question of a verification has to do with it.
_SETTINGS = (
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
_PROVED = "/image_processor"  # a part of processor_config.json that every question is read with
_STORED = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}  # as headers say it
_TYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}  # as headers, and config.json


def quantised_bits(export: Path) -> Literal["int8", "int4"] | None:
    """Of what the weights are where they are not whole. Raises `InvalidInput` where config.json is unreadable."""
    told = read_json(export / CONFIG).get(QUANTISATION)
    if told is None:
        return None
    return "int4" if "int4" in json.dumps(told) else "int8"


def wrong_files(export: Path) -> Iterator[Complaint]:
    """What must not be in an export, and what is missing."""
    for path in sorted(export.rglob("*")):
        where = _named(export, path)
        if path.is_symlink():
            yield Complaint(where, "it is a link", AGAIN)
        elif path.is_file() and path.suffix not in _KINDS and path.name not in _BY_NAME:
            yield Complaint(where, "it is no file of a model, and may be code or a pickle", "leave it out")
    for name in _NEEDED:
        if not (export / name).is_file():
            yield Complaint(f"{export.name}/{name}", "there is no such file", AGAIN)


def wrong_sums(export: Path, check: Callable[[], None]) -> Iterator[Complaint]:
    """Files that are not those of which `SHA256SUMS` has the digests."""
    try:
        sums = read_sums(export)
    except InvalidInput as error:
        yield from error.complaints
        return
    there = {path.relative_to(export).as_posix() for path in export.rglob("*") if path.is_file()} - {SUMS}
    for name in sorted(there - sums.keys()):
        yield Complaint(f"{export.name}/{name}", f"{SUMS} does not name it", AGAIN)
    for name, digest in sums.items():
        check()
        if name not in there:
            yield Complaint(f"{export.name}/{name}", f"there is no such file, and {SUMS} names it", AGAIN)
        elif sha256_of(export / name) != digest:
            yield Complaint(f"{export.name}/{name}", f"its bytes are not those of {SUMS}", AGAIN)


def wrong_tensors(export: Path) -> Iterator[Complaint]:
    """What the headers and the configuration say that no model is made of; of quantised weights, that they are read."""
    try:
        if quantised_bits(export):
            yield from dangers_of(export)
            return  # the rest is told by what reads them
        inspect(export)
    except InvalidInput as error:
        yield from error.complaints


def wrong_dtypes(export: Path, base: Path, wanted: str | None) -> Iterator[Complaint]:
    """Weights of other types than they are to have, and what config.json says of the types otherwise than the headers.

    `wanted` is bf16, fp16, fp32, int8, int4, or `base`: each tensor's own; None: config.json's, or each tensor's own.
    """
    bits = quantised_bits(export)
    if bits or wanted in {"int8", "int4", "gguf"}:
        if wanted not in {bits, None}:
            yield Complaint(export.name, f"its weights are {bits or 'whole'}, and not {wanted}", AGAIN)
        return
    said = read_json(export / CONFIG).get("dtype")
    given = {name: header.dtype for file in weight_files(base) for name, header in headers(file).items()}
    made = {name: (file, header.dtype) for file in weight_files(export) for name, header in headers(file).items()}
    one = _STORED.get(wanted or "")
    if wanted is None and any(kind != given.get(name, kind) for name, (_, kind) in made.items()):
        one = next((stored for stored, name in _TYPES.items() if name == said), None)
    for name, (file, kind) in made.items():
        expected = one or given.get(name, kind)
        if kind != expected:
            what = f"the tensor {name} is of {_TYPES.get(kind, kind)}, and not of {_TYPES.get(expected, expected)}"
            yield Complaint(_named(export, file), what, AGAIN)
    kinds = {kind for _, kind in made.values()}
    if len(kinds) == 1 and said not in {None, *map(_TYPES.get, kinds)}:
        yield Complaint(f"{export.name}/{CONFIG}", f"it says {said}, and no tensor is of that", AGAIN)


def wrong_settings(export: Path, base: Path, expected: Path) -> Iterator[Complaint]:
    """Values of config.json that are not the base's, and of other settings that are not those of a folder of them.

    How pictures and words are read is not looked at here: that is proved with questions.
    """
    for name, folder in ((CONFIG, base), *((name, expected) for name in _SETTINGS)):
        made, given = (dict(_values(read_json(each / name))) for each in (export, folder))
        for pointer in sorted(made.keys() | given.keys()):
            if made.get(pointer) != given.get(pointer):
                what = f"{pointer} is {made.get(pointer)!r}, and was {given.get(pointer)!r}"
                yield Complaint(f"{export.name}/{name}", what, AGAIN)
    if says_tied(export) and not are_tied(export, stored_tensors(export)):
        what = "it says that the words in and out are one tensor, and the weights have two that differ"
        yield Complaint(f"{export.name}/{CONFIG}", what, AGAIN)


def _values(content: Mapping[str, Any], pointer: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if key in _OWN or f"{pointer}/{key}" == _PROVED:
            continue
        if isinstance(value, dict):
            yield from _values(value, f"{pointer}/{key}")
        else:
            yield f"{pointer}/{key}", value


def _named(export: Path, path: Path) -> str:
    return f"{export.name}/{path.relative_to(export).as_posix()}"
