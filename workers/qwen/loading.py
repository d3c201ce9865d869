"""From a checkpoint's folder to a model that can be asked. It knows no job and no model hub.

1. look at the checkpoint and the adapter   2. choose dtype, attention and cards, each with its reason   3. read the
processor   4. read the weights   5. see that they are numbers   6. put the adapter on
"""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from safetensors import SafetensorError
from torch.distributed.tensor import DTensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.utils import logging as transformers_logging
from transformers.utils.import_utils import is_flash_attn_2_available

from vlyard.errors import InvalidInput
from workers.qwen.adapters import added_bytes, check_adapter, merge_adapter
from workers.qwen.checkpoint import check_checkpoint, parameter_bytes, refused, weight_bytes
from workers.qwen.manifest import read_manifest
from workers.qwen.memory import is_device_lost, naming_out_of_memory
from workers.qwen.placement import Placement, cards, place

# transformers' annotations refuse correct calls of its own classes, so these two go without.
Model: TypeAlias = Any  # a Qwen3VLForConditionalGeneration
Processor: TypeAlias = Any  # a Qwen3VLProcessor

DEMO_FOLDER = Path(__file__).with_name("demo_model")

FLASH, SDPA = "flash_attention_2", "sdpa"
_AMPERE = (8, 0)  # compute capability
_DAMAGE = (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError, ImportError)


class Attention(NamedTuple):
    """An attention implementation, as transformers names it, and why it was chosen."""

    name: str
    reason: str


class Precision(NamedTuple):
    """What the model computes in, and why."""

    dtype: torch.dtype
    reason: str


DTYPES = {
    "cuda": Precision(torch.bfloat16, "what Qwen3-VL was trained in, and half the memory of float32"),
    "cpu": Precision(torch.float32, "a CPU is slower in bfloat16, which also changes some answers"),
}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with all that is needed to ask it."""

    model: Model
    processor: Processor
    name: str
    attention: str  # the implementation that runs
    dtype: torch.dtype
    device: torch.device  # where its inputs go
    load_seconds: float
    gpus: int = 0  # over which it is spread; 0: it is on the CPU
    attention_reason: str = ""
    dtype_reason: str = ""
    bytes: int = 0  # of parameters and buffers
    shared_bytes: int = 0  # those of them that are its base's, which is in memory, too
    system: str | None = None  # what it was trained to be told first, before every conversation
    revision: str | None = None  # of the model hub that it came from
    notes: tuple[str, ...] = ()  # what is worth knowing about it


def load_model(folder: Path, adapter: Path | None = None, gpus: int = 1, *, revision: str | None = None) -> LoadedModel:
    """Load a checkpoint onto GPUs where there are any, else onto the CPU, and put an adapter on it; takes a while.

    `revision` is told on. Raises `InvalidInput` where the folder is no complete Qwen3-VL checkpoint in safetensors,
    where the adapter is none for it, where a weight is no number, or where it needs more GPUs; and `OutOfMemory`.
    """
    began = time.monotonic()
    check_checkpoint(folder)
    notes = check_adapter(adapter, _skeleton(folder), folder.name) if adapter else ()
    if adapter and gpus > 1:
        notes = (*notes, "the adapter is merged into a base of its own: one on several GPUs cannot be shared")
    plan = _plan(folder, gpus)
    try:
        model, processor = naming_out_of_memory(lambda: _read(folder, plan))
        processor, system = as_trained(folder, processor, None)
        if adapter:
            processor, system = as_trained(adapter, processor, system)
            model = naming_out_of_memory(lambda: merge_adapter(adapter, model))
    except _DAMAGE as damage:
        if is_device_lost(damage):
            raise
        raise _unloadable(folder, damage) from damage
    return LoadedModel(
        model,
        processor,
        name=f"{folder.name} with {adapter.name}" if adapter else folder.name,
        attention=model.config._attn_implementation,
        attention_reason=plan.attention.reason,
        dtype=plan.precision.dtype,
        dtype_reason=plan.precision.reason,
        device=model.device,
        load_seconds=time.monotonic() - began,
        gpus=gpus_of(model),
        bytes=sum(tensor.numel() * tensor.element_size() for _, tensor in _tensors(model)),
        system=system,
        revision=revision,
        notes=notes,
    )


def as_trained(folder: Path, processor: Processor, system: str | None) -> tuple[Processor, str | None]:
    """The processor and the system message with which a tuned model was trained, where its folder tells them.

    The processor that is given stays as it is. Raises `InvalidInput` where the manifest cannot be read.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return processor, system
    own, pictures = copy.copy(processor), copy.copy(processor.image_processor)
    pictures.size = type(pictures.size)(shortest_edge=manifest.min_pixels, longest_edge=manifest.max_pixels)
    own.image_processor = pictures
    own.chat_template = manifest.chat_template or processor.chat_template
    return own, manifest.system


def gpus_of(model: Model) -> int:
    """On how many GPUs its tensors are."""
    return len({tensor.device for _, tensor in _tensors(model) if tensor.device.type == "cuda"})


def memory_needed(folder: Path) -> int:
    """How many bytes the weights of a checkpoint will take here. Raises as `check_checkpoint`."""
    check_checkpoint(folder)
    return weight_bytes(folder, DTYPES[_device()].dtype.itemsize)


def memory_needed_beside(folder: Path, adapter: Path) -> int:
    """How many bytes an adapter will take beside the checkpoint, about. Raises `InvalidInput` where it does not fit.

    It looks at the headers of both alone.
    """
    check_checkpoint(folder)
    check_adapter(adapter, _skeleton(folder), folder.name)
    width = DTYPES[_device()].dtype.itemsize
    return added_bytes(adapter, parameter_bytes(folder, width), width)


def choose_attention(
    device: str, dtype: torch.dtype, capability: tuple[int, int], flash_attention_installed: bool
) -> Attention:
    """The attention implementation to ask transformers for.

    FlashAttention 2 computes in 16 bits only and needs CUDA on an Ampere GPU (compute capability 8.0) or newer:
    https://github.com/Dao-AILab/flash-attention#nvidia-cuda-support. Everything else has torch's own.
    """
    if device != "cuda":
        return Attention(SDPA, "FlashAttention 2 needs CUDA")
    if capability < _AMPERE:
        has = ".".join(map(str, capability))
        return Attention(SDPA, f"FlashAttention 2 needs compute capability 8.0, and the GPU has {has}")
    if dtype not in {torch.bfloat16, torch.float16}:
        return Attention(SDPA, f"FlashAttention 2 computes in 16 bits, not in {dtype}".replace("torch.", ""))
    if not flash_attention_installed:
        return Attention(SDPA, "flash-attn is not installed, or does not work with this torch")
    return Attention(FLASH, "flash-attn is installed, and the GPU can run it")


def attention_here(dtype: torch.dtype, cards: Sequence[int] = ()) -> Attention:
    """The attention implementation for what is computed in on these cards, the weakest of which decides for all.

    Without any it is for the card that torch takes by itself.
    """
    device = _device()
    chosen = cards or (torch.cuda.current_device(),) if device == "cuda" else ()
    capability = min(map(torch.cuda.get_device_capability, chosen), default=(0, 0))
    return choose_attention(device, dtype, capability, device == "cuda" and _flash_attention_works())


class _Plan(NamedTuple):
    precision: Precision
    attention: Attention
    placement: Placement


def _plan(folder: Path, gpus: int) -> _Plan:
    device = _device()
    precision = DTYPES[device]
    placement = place(weight_bytes(folder, precision.dtype.itemsize), cards(), gpus)
    return _Plan(precision, attention_here(precision.dtype, placement.cards), placement)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _flash_attention_works() -> bool:
    """Whether it works, and not only whether it is installed: flash-attn is often built for another torch."""
    try:
        import_module("flash_attn")
    except ImportError:
        return False
    return bool(is_flash_attn_2_available())


def _skeleton(folder: Path) -> Model:
    """The model without its weights: every module and every shape."""
    try:
        with torch.device("meta"):
            reader: Any = Qwen3VLForConditionalGeneration
            return reader(Qwen3VLConfig.from_pretrained(folder, local_files_only=True))
    except _DAMAGE as damage:
        raise _unloadable(folder, damage) from damage


def _read(folder: Path, plan: _Plan) -> tuple[Model, Processor]:
    quiet: Any = transformers_logging.disable_progress_bar
    quiet()
    reader: Any = Qwen3VLForConditionalGeneration
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    processor = Qwen3VLProcessor.from_pretrained(folder, **local)
    if not processor.chat_template:
        raise refused(folder.name, "it has no chat template", "copy chat_template.jinja too, or chat_template.json")
    model, report = reader.from_pretrained(
        folder,
        dtype=plan.precision.dtype,
        device_map=plan.placement.device_map,
        max_memory=plan.placement.max_memory,
        attn_implementation=plan.attention.name,
        use_safetensors=True,
        output_loading_info=True,
        **local,
    )
    for what in unfitting_words(processor, model.config):
        raise refused(folder.name, what, "copy processor and tokenizer again, and the config.json that belongs to them")
    # transformers fills what is missing with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        what = f"the weights lack {len(missing)} tensors, the first is {missing[0]}"
        raise refused(folder.name, what, "copy the checkpoint again")
    if name := first_without_numbers(model):
        raise refused(folder.name, f"the tensor {name} holds NaN or infinity", "train or copy the checkpoint again")
    return model.eval(), processor


def unfitting_words(processor: Processor, config: Any) -> Iterator[str]:
    """What of the processor's words the model does not have: each would be read beyond the end of its embeddings."""
    words, rows = len(processor.tokenizer), config.text_config.vocab_size
    if words > rows:
        yield f"the tokenizer has {words} tokens, and the model {rows}"
    for kind in ("image", "video"):
        ours, theirs = getattr(config, f"{kind}_token_id"), getattr(processor, f"{kind}_token_id")
        if ours != theirs:
            yield f"the {kind} token is {theirs} for the tokenizer, and {ours} for the model"


def first_without_numbers(model: Model) -> str | None:
    """The name of the first parameter or buffer that holds NaN or infinity; None where all are numbers.

    NaN and infinity survive adding up, so one pass over the memory and one number a tensor are enough; each device
    is asked once. Only where a sum is no number, its tensor is looked at closely: finite numbers may add up to more
    than float32 holds. Of a tensor that several processes share each looks at its part.
    """
    sums: dict[torch.device, list[tuple[str, torch.Tensor, torch.Tensor]]] = {}
    for name, tensor in _tensors(model):
        if tensor.is_floating_point():
            here = _here(tensor.detach())
            sums.setdefault(here.device, []).append((name, here, here.sum(dtype=torch.float32)))
    for entries in sums.values():
        good = torch.isfinite(torch.stack([total for _, _, total in entries])).tolist()
        for (name, tensor, _), fine in zip(entries, good, strict=True):
            if not fine and not torch.isfinite(tensor).all():
                return name
    return None


def _here(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process has."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _tensors(model: Model) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _unloadable(folder: Path, damage: BaseException) -> InvalidInput:
    first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
    return refused(folder.name, f"it cannot be loaded: {first}", "copy the checkpoint again")
