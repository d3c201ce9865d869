"""From a checkpoint's folder to a model that can be asked. It knows no job and no model hub.

A folder comes from somebody else: it is looked at before anything in it is read as weights, only safetensors are
read, and code that lies beside them is never run.
"""

import json
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.utils import logging as transformers_logging

from vlyard.errors import Complaint, InvalidInput
from workers.qwen.memory import naming_out_of_memory

# transformers' annotations refuse correct calls of its own classes, so these two go without.
Model: TypeAlias = Any  # a Qwen3VLForConditionalGeneration
Processor: TypeAlias = Any  # a Qwen3VLProcessor

MODEL_TYPE = "qwen3_vl"
DEMO_FOLDER = Path(__file__).with_name("demo_model")

# bf16 is what Qwen3-VL was trained in and half the memory of fp32. A CPU is slower with it and changes some answers.
DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}

# One file of each line must be there.
_FILES = (
    ("config.json",),
    ("processor_config.json", "preprocessor_config.json"),
    ("tokenizer.json", "vocab.json"),
    ("model.safetensors", "model.safetensors.index.json"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DAMAGE = (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError)


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with all that is needed to ask it."""

    model: Model
    processor: Processor
    name: str
    attention: str  # the implementation that runs
    dtype: torch.dtype
    device: torch.device
    load_seconds: float
    # The model keeps the position offsets of the request it works on in itself: one request at a time.
    turn: Lock = field(default_factory=Lock, repr=False, compare=False)


class WarmModels:
    """The models of this process, each loaded once and kept. Safe to use from several threads."""

    def __init__(self) -> None:
        self._models: dict[Path, LoadedModel] = {}
        self._loading = Lock()  # one at a time: while transformers loads, it changes torch's default dtype for all

    def get(self, folder: Path) -> tuple[LoadedModel, bool]:
        """The model of that folder, and whether it was in memory already. Raises as `load_model`."""
        folder = folder.resolve()
        held = self._models.get(folder)
        if held is not None:
            return held, True
        with self._loading:
            held = self._models.get(folder)
            if held is not None:
                return held, True
            loaded = self._models[folder] = load_model(folder)
            return loaded, False


def load_model(folder: Path) -> LoadedModel:
    """Load a checkpoint onto the GPU where there is one, else onto the CPU; takes seconds to minutes.

    Raises `InvalidInput` where the folder is no complete Qwen3-VL checkpoint in safetensors, and `OutOfMemory`.
    """
    check_checkpoint(folder)
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[device.type]
    attention = choose_attention(
        device.type,
        dtype,
        torch.cuda.get_device_capability() if device.type == "cuda" else (0, 0),
        device.type == "cuda" and _importable("flash_attn"),
    )
    try:
        model, processor = naming_out_of_memory(lambda: _read(folder, device, dtype, attention))
    except _DAMAGE as damage:
        first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
        raise _refused(folder.name, f"it cannot be loaded: {first}", "copy the checkpoint again") from damage
    return LoadedModel(model, processor, folder.name, attention, dtype, device, time.monotonic() - began)


def choose_attention(
    device: str, dtype: torch.dtype, capability: tuple[int, int], flash_attention_installed: bool
) -> str:
    """The attention implementation to ask transformers for.

    FlashAttention 2 computes in 16 bits only and needs CUDA on an Ampere GPU (compute capability 8.0) or newer:
    https://github.com/Dao-AILab/flash-attention#nvidia-cuda-support. Everything else has torch's own.
    """
    fits = device == "cuda" and capability >= (8, 0) and dtype in {torch.bfloat16, torch.float16}
    return "flash_attention_2" if fits and flash_attention_installed else "sdpa"


def check_checkpoint(folder: Path) -> None:
    """Look at a checkpoint without reading its weights.

    Raises `InvalidInput` that names what is missing, or what is there in its place.
    """
    if not folder.is_dir():
        raise _refused(folder.name, "there is no such folder", "put the checkpoint there, or choose another model")
    config = _read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if config is not None and config.get("model_type") != MODEL_TYPE:
        found = config.get("model_type", "unknown")
        raise _refused(
            f"{folder.name}/config.json", f"the model_type is {found!r}, not {MODEL_TYPE!r}", "give a Qwen3-VL model"
        )
    for alternatives in _FILES:
        if not any((folder / name).is_file() for name in alternatives):
            raise _refused(folder.name, *_missing(folder, alternatives))
    index = folder / "model.safetensors.index.json"
    if not (folder / "model.safetensors").is_file():
        for shard in sorted(set(_weight_map(index).values())):
            if Path(shard).name != shard or not shard.endswith(".safetensors") or not (folder / shard).is_file():
                raise _refused(
                    f"{folder.name}/{index.name}", f"there is no file {shard!r}", "copy the checkpoint again"
                )


def _importable(module: str) -> bool:
    """Whether it works, and not only whether it is installed: flash-attn is often built for another torch."""
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def _missing(folder: Path, alternatives: tuple[str, ...]) -> tuple[str, str]:
    what = f"it has no {' and no '.join(alternatives)}"
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if "model.safetensors" in alternatives and pickles:
        return f"{what}, only {', '.join(pickles)}, and a pickle can run code when it is read", "save as safetensors"
    return what, "copy the whole checkpoint"


def _weight_map(index: Path) -> dict[str, str]:
    entries = _read_json(index).get("weight_map")
    if not isinstance(entries, dict) or not all(isinstance(shard, str) for shard in entries.values()):
        raise _refused(f"{index.parent.name}/{index.name}", "it has no weight_map", "copy the checkpoint again")
    return entries


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(f"{path.parent.name}/{path.name}", f"it is not JSON: {error}", "copy it again") from None
    if not isinstance(content, dict):
        raise _refused(f"{path.parent.name}/{path.name}", "it is not a JSON object", "copy it again")
    return content


def _read(folder: Path, device: torch.device, dtype: torch.dtype, attention: str) -> tuple[Model, Processor]:
    quiet: Any = transformers_logging.disable_progress_bar
    quiet()
    reader: Any = Qwen3VLForConditionalGeneration
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    processor = Qwen3VLProcessor.from_pretrained(folder, **local)
    if not processor.chat_template:
        raise ValueError("it has no chat template")
    model, report = reader.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device},
        attn_implementation=attention,
        use_safetensors=True,
        output_loading_info=True,
        **local,
    )
    # transformers fills what is missing with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"the weights lack {len(missing)} tensors, the first is {missing[0]}")
    return model.eval(), processor


def _refused(where: str, what: str, fix: str) -> InvalidInput:
    return InvalidInput("The model cannot be used", [Complaint(where, what, fix)])
