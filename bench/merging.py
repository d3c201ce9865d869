"""Seconds and memory of merging an adapter into a base of two gigabytes, as an export does.

The baseline is a plain copy of the base's files, which knows no numbers and has no digest. Others are that copy with
the SHA-256 that an export's files have, and PEFT's `merge_and_unload` with `save_pretrained`. Each is done in a process
of its own, and counts from when that has imported what it needs. Memory is what is anonymous of the resident set,
looked at every few milliseconds from outside: pages of files are the machine's to take back.
"""

import hashlib
import logging
import multiprocessing
import os
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.figure import Figure, in_turns
from bench.stage import Stage

# The widths of Qwen3-VL-2B, with fewer layers: 1.0 billion parameters, 2 GB in bf16.
_TEXT = {
    "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 10,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
}  # fmt: skip
_VISION = {
    "depth": 8, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048,
    "deepstack_visual_indexes": [1, 3, 5],
}  # fmt: skip
_RANK = 16
_LINEAR = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"  # every linear layer of the language model
_LARGEST_BYTES = 151_936 * 2048 * 2
_ALLOWED_BYTES = 2 * _LARGEST_BYTES + 100e6
_LOOK_SECONDS = 0.004

Way = Callable[[Path], Callable[[], object]]  # imports what it needs, and gives what is to be measured


def measure(_stage: Stage) -> Sequence[Figure]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        _alone(_generate, folder)
        peaks: dict[Way, float] = {}

        def seconds(way: Way) -> Callable[[], float]:
            def measured() -> float:
                took, peak = _alone(way, folder)
                peaks[way] = max(peak, peaks.get(way, 0.0))
                return took

            return measured

        ours, copied, summed, theirs = in_turns(*map(seconds, (_merge, _copy, _copy_with_sums, _peft)))
    what, megabytes = "merging an adapter into 2 GB", 1e6
    most = "twice the largest tensor and 100 MB"
    return [
        Figure(what, "s", "less", ours, "a plain copy of the files", copied, 1.5),
        Figure(what, "s", "less", ours, "a plain copy with its SHA-256", summed),
        Figure(what, "s", "less", ours, "PEFT's merge_and_unload and save_pretrained", theirs),
        Figure(f"memory of {what}", "MB", "less", peaks[_merge] / megabytes, most, _ALLOWED_BYTES / megabytes, 1.0),
        Figure(f"memory of {what}", "MB", "less", peaks[_merge] / megabytes, "PEFT's way", peaks[_peft] / megabytes),
    ]


# --- what is done ---------------------------------------------------------------------------------------------


def _generate(folder: Path) -> Callable[[], object]:
    """A base and an adapter of random numbers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    def generate() -> None:
        torch.set_default_dtype(torch.bfloat16)
        torch.manual_seed(1)
        config = Qwen3VLConfig(text_config=_TEXT, vision_config=_VISION, tie_word_embeddings=True)
        make: Any = Qwen3VLForConditionalGeneration
        model = make(config)
        model.save_pretrained(folder / "base")
        lora: Any = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules=_LINEAR, init_lora_weights=False)
        get_peft_model(model, lora).save_pretrained(str(folder / "adapter"))

    return generate


def _merge(folder: Path) -> Callable[[], object]:
    from workers.qwen.exporting import merging

    for name in ("peft.tuners.lora", "transformers.models.qwen3_vl.modeling_qwen3_vl"):
        import_module(name)  # which are imported when they are first needed
    return lambda: merging.merge(
        folder / "base", folder / "adapter", folder / "made", merging.Merging(), told=_unheard, check=_unheard
    )


def _copy(folder: Path) -> Callable[[], object]:
    def copy() -> None:
        (folder / "made").mkdir()
        for file in (folder / "base").iterdir():
            shutil.copyfile(file, folder / "made" / file.name)

    return copy


def _copy_with_sums(folder: Path) -> Callable[[], object]:
    copy = _copy(folder)

    def copy_with_sums() -> None:
        copy()
        for file in (folder / "made").iterdir():
            with file.open("rb") as content:
                hashlib.file_digest(content, "sha256")

    return copy_with_sums


def _peft(folder: Path) -> Callable[[], object]:
    import torch
    from peft import PeftModel
    from transformers import Qwen3VLForConditionalGeneration

    def merge() -> None:
        reader: Any = Qwen3VLForConditionalGeneration
        base = reader.from_pretrained(folder / "base", dtype=torch.bfloat16)
        adapted: Any = PeftModel.from_pretrained(base, str(folder / "adapter"))
        adapted.merge_and_unload().save_pretrained(folder / "made")

    return merge


def _unheard(*_: object) -> None:
    """Nobody wants to know."""


# --- and how it is measured -----------------------------------------------------------------------------------


def _alone(way: Way, folder: Path) -> tuple[float, float]:
    """Do something in a process of its own: the seconds that it took, and the bytes beside what it had before."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_do, args=(way, folder, theirs))
    process.start()
    theirs.close()
    ours.recv()  # it has imported everything
    before = most = _anonymous(process.pid)
    ours.send("go")
    while not ours.poll(_LOOK_SECONDS):
        most = max(most, _anonymous(process.pid))
    seconds: float = ours.recv()
    process.join()
    shutil.rmtree(folder / "made", ignore_errors=True)
    return seconds, most - before


def _do(way: Way, folder: Path, pipe: Connection) -> None:
    os.environ["TQDM_DISABLE"] = "1"  # progress bars and warnings of libraries would be between the figures
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    work = way(folder)
    pipe.send("ready")
    pipe.recv()
    began = time.perf_counter()
    work()
    pipe.send(time.perf_counter() - began)


def _anonymous(pid: int | None) -> float:
    """Bytes of a process's memory that are no pages of files; 0 once it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return float(line.split()[1]) * 1024
    return 0.0
