"""Weights of 8 or 4 bits for the language model's layers, in torchao's format, which plain transformers load.

What sees, the words, and what chooses the next word stay whole: they are few beside the layers, and errors there reach
every box. It needs the package torchao, and the whole model in memory.
"""

import json
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vlyard.errors import Complaint, InvalidInput
from vlyard.extras import installing
from workers.qwen.checkpoint import CONFIG, QUANTISATION, read_json, weight_files
from workers.qwen.exporting.card import as_stored
from workers.qwen.exporting.folder import CARD, SUMS, write_sums
from workers.qwen.exporting.shards import is_weights

Bits = Literal["int8", "int4"]
GROUP = 32  # numbers of a row that share a scale, of int4: https://docs.pytorch.org/ao/stable/
_PARTS = "_tensor_data_names"  # torchao's, of one weight
WHOLE = ("lm_head", "model.visual")  # modules that are left as they are
_DAMAGE = (ValueError, TypeError, RuntimeError, AssertionError, NotImplementedError)


def require_torchao() -> None:
    """Raise `InvalidInput` where the package is not installed."""
    if find_spec("torchao") is None:
        what, fix = (
            "int8 and int4 need the package torchao",
            f"have the worker's operator run: {installing('quantised')}",
        )
        raise InvalidInput("The export cannot have this format", [Complaint("/spec/format", what, fix)])


def quantise(whole: Path, output: Path, bits: Bits, shard_bytes: int) -> Mapping[str, str]:
    """Write a folder like the `whole` one with its layers in fewer bits; returns the SHA-256 of its files.

    Of 8 bits each row has a scale; of 4 each group of 32 numbers, and each number takes a byte of the file, as torchao
    has no denser form that runs without a GPU. Raises `InvalidInput` where a layer cannot be divided so.
    """
    require_torchao()
    from transformers import Qwen3VLForConditionalGeneration, TorchAoConfig

    reader: Any = Qwen3VLForConditionalGeneration
    wanted: Any = TorchAoConfig(_recipe(bits), modules_to_not_convert=list(WHOLE))
    try:
        model = reader.from_pretrained(whole, quantization_config=wanted, local_files_only=True)
        model.save_pretrained(output, max_shard_size=shard_bytes)
        _restore_config(whole, output)
        _put_in_order(output)
    except _DAMAGE as damage:
        first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
        complaint = Complaint("/spec/format", f"the weights cannot be of {bits}: {first}", "export safetensors")
        raise InvalidInput("The export cannot have this format", [complaint]) from damage
    for path in whole.iterdir():
        if path.name not in {CONFIG, SUMS} and not is_weights(path.name):
            shutil.copyfile(path, output / path.name)
    words = as_stored((whole / CARD).read_text(encoding="utf-8")) + _ABOUT.format(bits=bits)
    (output / CARD).write_text(words, encoding="utf-8")
    return write_sums(output)


def _restore_config(whole: Path, output: Path) -> None:
    """Put how the weights are read beside what the model is, which transformers rewrite to their newest form."""
    made = read_json(output / CONFIG)[QUANTISATION]
    config = json.dumps({**read_json(whole / CONFIG), QUANTISATION: made}, indent=2, ensure_ascii=False)
    (output / CONFIG).write_text(config + "\n", encoding="utf-8")


def _put_in_order(output: Path) -> None:
    """Sort what torchao tells in the headers of the weights: it comes out of sets, in another order each time."""
    for file in weight_files(output):
        with file.open("r+b") as content:
            length = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(length))
            told = header["__metadata__"]
            header["__metadata__"] = {name: _in_order(told[name]) for name in sorted(told)}
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            assert len(text) <= length  # the same, in another order
            content.seek(8)
            content.write(text.ljust(length))


def _in_order(text: str) -> str:
    if not text.startswith("{"):
        return text
    told = json.loads(text)
    if _PARTS in told:
        told[_PARTS] = sorted(told[_PARTS])
    return json.dumps(told, sort_keys=True)


_ABOUT = """
## In fewer bits

The layers of the language model are in {bits} (weight-only, torchao); what sees, the words and the last layer are
whole. Loading it takes the package torchao.
"""


def _recipe(bits: Bits) -> Any:
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    if bits == "int8":
        return Int8WeightOnlyConfig(version=2)
    four: Any = torch
    return IntxWeightOnlyConfig(weight_dtype=four.int4, granularity=PerGroup(GROUP))
