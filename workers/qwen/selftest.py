"""What a worker finds out about itself before it takes work. It knows no job, and no model but the demo.

Each check runs what a question would run, on the device that it would run on, and says what it found.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from PIL import Image
from torch.nn.functional import conv3d

from vlyard.formats.picture import open_picture
from workers.qwen.loading import DEMO_FOLDER, LoadedModel, load_model

# torch 2.9 computes a Conv3d in bfloat16 by a slow way (pytorch/pytorch#174051): pictures took ten times as long.
# Elsewhere a convolution whose steps are as long as its kernel takes one to four times as long as the equal product.
_SLOWEST = 20.0  # times the matrix product
_PATCHES, _WIDTH = 128, 1024  # of Qwen3-VL-2B: each patch is 3 × 2 × 16 × 16 values
_ORIENTATION = 0x0112
_WORDS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
# How far two ways to the same numbers may be apart, as a part of their spread; wrong ones are several times it apart.
_CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.5}


class Finding(NamedTuple):
    """Whether something is as it should be, and what was found."""

    ok: bool
    note: str


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    note: str
    seconds: float


@dataclass(frozen=True)
class SelfTest:
    """What a worker found out about itself."""

    ok: bool
    seconds: float
    torch: str
    transformers: str
    devices: tuple[str, ...]
    checks: tuple[Check, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for storing."""
        return {**asdict(self), "devices": list(self.devices), "checks": [asdict(check) for check in self.checks]}


def self_test(folder: Path = DEMO_FOLDER) -> SelfTest:
    """Look at everything, with that checkpoint; takes about a second once torch is imported.

    Never raises: what fails is told.
    """
    began = time.monotonic()
    found: list[LoadedModel] = []

    def loading() -> Finding:
        found.append(load_model(folder))
        return Finding(True, f"{folder.name} was loaded in {found[0].load_seconds:.2f} s")

    checks = [_run("loading", loading)]
    steps: Sequence[tuple[str, Callable[[LoadedModel], Finding]]] = (
        ("dtype", _dtype),
        ("attention", _attention),
        ("convolution", _convolution),
        ("tokenizer", _tokenizer),
    )
    checks += [_run(name, partial(step, *found)) for name, step in steps if found]
    checks.append(_run("orientation", _orientation))
    return SelfTest(
        ok=all(check.ok for check in checks),
        seconds=time.monotonic() - began,
        torch=torch.__version__,
        transformers=transformers.__version__,
        devices=devices(),
        checks=tuple(checks),
    )


def devices() -> tuple[str, ...]:
    """What this process computes on, in words."""
    if not torch.cuda.is_available():
        return (f"cpu, {torch.get_num_threads()} threads",)
    cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return tuple(f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards)


def _run(name: str, look: Callable[[], Finding]) -> Check:
    began = time.monotonic()
    try:
        found = look()
    except Exception as error:  # noqa: BLE001 - whatever fails is what was to be found out
        found = Finding(False, f"{type(error).__name__}: {error}")
    return Check(name, found.ok, found.note, time.monotonic() - began)


def _dtype(loaded: LoadedModel) -> Finding:
    """A matrix product in the model's dtype, compared with the same one in float64."""
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(64, 64, generator=generator) for _ in range(2))
    product = left.to(loaded.device, loaded.dtype) @ right.to(loaded.device, loaded.dtype)
    ok, apart = _compare(product.cpu(), left.double() @ right.double(), loaded.dtype)
    return Finding(ok, f"{_word(loaded.dtype)}: {loaded.dtype_reason}; {apart} from float64")


def _attention(loaded: LoadedModel) -> Finding:
    """The scores of a text, by the attention that runs and by the plain one."""
    model = loaded.model
    tokens = torch.arange(100, 164, device=loaded.device)[None]  # (1, 64)
    with torch.inference_mode():
        runs = model(input_ids=tokens).logits
        model.set_attn_implementation("eager")
        plain = model(input_ids=tokens).logits
        model.set_attn_implementation(loaded.attention)
    ok, apart = _compare(runs, plain, loaded.dtype)
    return Finding(ok, f"{loaded.attention}: {loaded.attention_reason}; {apart} from eager")


def _convolution(loaded: LoadedModel) -> Finding:
    """How pictures are cut into patches: the convolution, and the matrix product that is the same."""
    on: dict[str, Any] = {"device": loaded.device, "dtype": loaded.dtype}
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(_PATCHES, 3, 2, 16, 16, generator=generator).to(**on)
    kernel = torch.randn(_WIDTH, 3, 2, 16, 16, generator=generator).to(**on)
    flat = kernel.flatten(1).T.contiguous()
    with torch.inference_mode():
        same, apart = _compare(conv3d(patches, kernel).flatten(1), patches.flatten(1) @ flat, loaded.dtype)
        slow = _seconds(lambda: conv3d(patches, kernel, stride=(2, 16, 16)), loaded.device)
        fast = _seconds(lambda: patches.flatten(1) @ flat, loaded.device)
    ratio = slow / fast
    note = f"Conv3d takes {ratio:.1f} times as long as the equal matrix product; {apart} from it"
    if ratio > _SLOWEST:
        note += "; pictures will be slow: use another version of torch (pytorch/pytorch#174051)"
    return Finding(same and ratio <= _SLOWEST, note)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of some turns: what else runs on the machine only ever makes them longer."""
    turns = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        turns.append(time.perf_counter() - began)
    return min(turns)


def _tokenizer(loaded: LoadedModel) -> Finding:
    """Coordinates are written digit by digit, and the words that mark pictures and turns are one token each."""
    tokenizer = loaded.processor.tokenizer
    digits = tokenizer.tokenize("1024")
    if digits != list("1024"):
        return Finding(False, f"1024 is cut into {digits}, not into digits")
    torn = [word for word in _WORDS if len(tokenizer(word).input_ids) != 1]
    if torn:
        return Finding(False, f"{torn[0]} is not one token")
    return Finding(True, "digits are single tokens, and so are the special words")


def _orientation() -> Finding:
    """A picture that its EXIF block turns: red above blue, stored lying on its side."""
    upright = Image.new("RGB", (16, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))
    exif, content = Image.Exif(), io.BytesIO()
    exif[_ORIENTATION] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(content, "PNG", exif=exif)
    seen = open_picture(content.getvalue(), name="a turned picture")
    if seen.tobytes() != upright.tobytes():
        return Finding(False, "a picture is not turned as its EXIF orientation says")
    return Finding(True, "pictures are turned as their EXIF orientation says")


def _compare(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether they are as close as that precision allows, and how far they are apart."""
    apart = float((one.double() - other.double()).abs().max() / other.double().std())
    return apart < _CLOSE[dtype], f"{apart:.1e} apart"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
