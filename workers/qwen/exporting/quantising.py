"""Weights of 8 or 4 bits for the language model's layers, in torchao's format, which plain transformers load.

What sees, the words, and what chooses the next word stay whole: they are few beside the layers, and errors there reach
every box. It needs the package torchao, and the whole model in memory.
"""

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vlyard.errors import Complaint, InvalidInput
from workers.qwen.checkpoint import CONFIG
from workers.qwen.exporting.folder import CARD, SUMS, write_sums
from workers.qwen.exporting.shards import is_weights

Bits = Literal["int8", "int4"]
GROUP = 32  # numbers of a row that share a scale, of int4: https://docs.pytorch.org/ao/stable/
WHOLE = ("lm_head", "model.visual")  # modules that are left as they are
_DAMAGE = (ValueError, TypeError, RuntimeError, AssertionError, NotImplementedError)


def require_torchao() -> None:
    """Raise `InvalidInput` where the package is not installed."""
    if find_spec("torchao") is None:
        what, fix = "int8 and int4 need the package torchao", "ask the operator to install vlyard[quantised]"
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
    except _DAMAGE as damage:
        first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
        complaint = Complaint("/spec/format", f"the weights cannot be of {bits}: {first}", "export safetensors")
        raise InvalidInput("The export cannot have this format", [complaint]) from damage
    for path in whole.iterdir():
        if path.name not in {CONFIG, SUMS} and not is_weights(path.name):
            shutil.copyfile(path, output / path.name)
    with (output / CARD).open("a", encoding="utf-8") as card:
        card.write(_ABOUT.format(bits=bits))
    return write_sums(output)


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
