import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlyard.errors import InvalidInput, OutOfMemory
from workers.qwen.loading import WarmModels, choose_attention, load_model
from workers.qwen.memory import naming_out_of_memory

FLASH, SDPA = "flash_attention_2", "sdpa"
AMPERE, TURING = (8, 0), (7, 5)

# fmt: off
ATTENTION = [
    ("cuda", torch.bfloat16, AMPERE, True,  FLASH),
    ("cuda", torch.float16,  AMPERE, True,  FLASH),
    ("cuda", torch.bfloat16, (9, 0), True,  FLASH),
    ("cuda", torch.bfloat16, AMPERE, False, SDPA),
    ("cuda", torch.float32,  AMPERE, True,  SDPA),
    ("cuda", torch.bfloat16, TURING, True,  SDPA),
    ("cpu",  torch.bfloat16, (0, 0), True,  SDPA),
    ("cpu",  torch.float32,  (0, 0), False, SDPA),
]
# fmt: on


@pytest.mark.parametrize(("device", "dtype", "capability", "installed", "expected"), ATTENTION)
def test_flash_attention_is_chosen_only_where_it_runs(
    device: str, dtype: torch.dtype, capability: tuple[int, int], installed: bool, expected: str
) -> None:
    assert choose_attention(device, dtype, capability, installed) == expected


@pytest.fixture
def broken(untrained: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be broken."""
    return Path(shutil.copytree(untrained, tmp_path / "broken"))


def _other_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes(b"whoever reads this as weights complains about it")


def _pickles_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _lost_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.visual.pos_embed.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _shard_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"model.visual.pos_embed.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# fmt: off
BREAKS: list[tuple[Callable[[Path], object], str]] = [
    (_other_architecture, "broken/config.json: the model_type is 'llama', not 'qwen3_vl'"),
    (_pickles_only, "only pytorch_model.bin, and a pickle can run code when it is read"),
    (_lost_tensor, "the weights lack 1 tensors, the first is model.visual.pos_embed.weight"),
    (_cut_weights, "broken: it cannot be loaded"),
    (_shard_elsewhere, "broken/model.safetensors.index.json: there is no file '../model.safetensors'"),
    (lambda folder: (folder / "config.json").write_text("{"), "broken/config.json: it is not JSON"),
    (lambda folder: (folder / "config.json").unlink(), "broken: it has no config.json"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "it has no tokenizer.json and no vocab.json"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "broken: it cannot be loaded"),
    (lambda folder: (folder / "chat_template.jinja").unlink(), "it has no chat template"),
    (lambda folder: (folder / "processor_config.json").unlink(), "it has no processor_config.json and no"),
    (lambda folder: (folder / "model.safetensors").unlink(), "it has no model.safetensors and no"),
    (shutil.rmtree, "broken: there is no such folder"),
]
# fmt: on


@pytest.mark.parametrize(("damage", "said"), BREAKS, ids=[said for _, said in BREAKS])
def test_a_checkpoint_that_is_not_right_is_refused_and_named(
    broken: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(broken)

    with pytest.raises(InvalidInput) as refusal:
        load_model(broken)

    assert said in str(refusal.value)


def test_a_model_that_several_threads_ask_for_is_loaded_once(untrained: Path) -> None:
    models, together = WarmModels(), threading.Barrier(4)

    def get(_: int) -> tuple[int, bool]:
        together.wait()
        loaded, warm = models.get(untrained)
        return id(loaded), warm

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(get, range(4)))

    assert len({model for model, _ in answers}) == 1
    assert sorted(warm for _, warm in answers) == [False, True, True, True]


def test_a_model_that_failed_to_load_is_tried_again(untrained: Path, tmp_path: Path) -> None:
    models, folder = WarmModels(), tmp_path / "late"
    with pytest.raises(InvalidInput):
        models.get(folder)

    shutil.copytree(untrained, folder)

    assert models.get(folder)[1] is False
    assert models.get(folder)[1] is True


def test_memory_that_runs_out_is_told_from_other_errors() -> None:
    def too_much() -> torch.Tensor:
        return torch.empty(2**60, dtype=torch.uint8)  # an exbibyte, from torch's own allocator

    def wrong() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(OutOfMemory, match="memory ran out"):
        naming_out_of_memory(too_much)
    with pytest.raises(RuntimeError, match="shapes differ"):
        naming_out_of_memory(wrong)
