import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from vlyard.errors import InvalidInput, OutOfMemory
from workers.qwen import loading
from workers.qwen.demo.architecture import DEMO, build_untrained
from workers.qwen.loading import DTYPES, Attention, LoadedModel, choose_attention, gpus_of, load_model, memory_needed
from workers.qwen.memory import naming_out_of_memory
from workers.qwen.placement import Placement

FLASH, SDPA = "flash_attention_2", "sdpa"
AMPERE, TURING = (8, 0), (7, 5)

# fmt: off
ATTENTION = [
    ("cuda", torch.bfloat16, AMPERE, True,  FLASH, "flash-attn is installed"),
    ("cuda", torch.float16,  AMPERE, True,  FLASH, "flash-attn is installed"),
    ("cuda", torch.bfloat16, (9, 0), True,  FLASH, "flash-attn is installed"),
    ("cuda", torch.bfloat16, AMPERE, False, SDPA,  "flash-attn is not installed"),
    ("cuda", torch.float32,  AMPERE, True,  SDPA,  "computes in 16 bits, not in float32"),
    ("cuda", torch.bfloat16, TURING, True,  SDPA,  "needs compute capability 8.0, and the GPU has 7.5"),
    ("cpu",  torch.bfloat16, (0, 0), True,  SDPA,  "needs CUDA"),
    ("cpu",  torch.float32,  (0, 0), False, SDPA,  "needs CUDA"),
]
# fmt: on


@pytest.mark.parametrize(("device", "dtype", "capability", "installed", "expected", "why"), ATTENTION)
def test_flash_attention_is_chosen_only_where_it_runs_and_with_its_reason(
    device: str, dtype: torch.dtype, capability: tuple[int, int], installed: bool, expected: str, why: str
) -> None:
    chosen = choose_attention(device, dtype, capability, installed)

    assert chosen.name == expected
    assert why in chosen.reason


def test_a_model_tells_what_was_chosen_for_it_and_why(demo: LoadedModel) -> None:
    on_cuda = demo.device.type == "cuda"

    assert demo.attention == demo.model.config._attn_implementation
    assert demo.attention_reason
    assert demo.dtype == demo.model.dtype == (torch.bfloat16 if on_cuda else torch.float32)
    assert ("trained in" in demo.dtype_reason) == on_cuda
    assert demo.gpus == int(on_cuda)
    assert (demo.name, demo.revision, demo.notes) == ("demo_model", None, ())


def test_the_cards_of_a_model_are_those_that_its_tensors_are_on() -> None:
    with FakeTensorMode():
        spread = torch.nn.ModuleList([torch.nn.Linear(1, 1, device=f"cuda:{card}") for card in (0, 3, 3)])
        spread.register_buffer("beside", torch.zeros(1, device="cpu"))

    assert (gpus_of(spread), gpus_of(torch.nn.Linear(1, 1))) == (2, 0)


def test_a_model_is_read_by_what_was_chosen_for_it(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    whole = Qwen3VLForConditionalGeneration.from_pretrained(untrained)

    def record(folder: Path, **how: Any) -> tuple[Any, dict[str, list[str]]]:
        asked.update(how, folder=folder)
        return whole, {"missing_keys": []}

    monkeypatch.setattr(Qwen3VLForConditionalGeneration, "from_pretrained", record)
    plan = loading._Plan(DTYPES["cuda"], Attention(FLASH, "it works"), Placement((1, 3), bytes_each=5 * 2**30))
    monkeypatch.setattr(loading, "_plan", lambda _folder, _gpus: plan)

    loaded = load_model(untrained, gpus=2)

    assert asked == {
        "folder": untrained,
        "dtype": torch.bfloat16,
        "device_map": "auto",
        "max_memory": {1: 5 * 2**30, 3: 5 * 2**30, "cpu": 0},
        "attn_implementation": FLASH,
        "use_safetensors": True,
        "output_loading_info": True,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    assert (loaded.attention_reason, loaded.dtype) == ("it works", torch.bfloat16)


@pytest.mark.parametrize(
    "module", ["raise ImportError('undefined symbol: built for another torch')", "import a_part_that_is_lacking"]
)
def test_flash_attention_that_cannot_be_imported_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: True)  # transformers finds a version of it

    assert not loading._flash_attention_works()


def test_flash_attention_that_can_be_imported_works_where_transformers_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)

    try:
        for said in (True, False):
            monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda said=said: said)
            assert loading._flash_attention_works() is said
    finally:
        sys.modules.pop("flash_attn", None)  # not by monkeypatch, which would bring it back


def test_the_memory_a_model_needs_is_known_before_it_is_loaded(untrained: Path) -> None:
    foretold = memory_needed(untrained)

    assert foretold <= load_model(untrained).bytes < 1.01 * foretold


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
    _write_index(folder, "../model.safetensors")


def _write_index(folder: Path, shard: str) -> None:
    index = {"weight_map": {"model.visual.pos_embed.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _pickled_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00001.bin")
    _write_index(folder, "pytorch_model-00001-of-00001.bin")


def _without_numbers(name: str, value: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name].view(-1)[-1] = value
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return damage


def _edit(name: str, **values: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | values))

    return damage


def _other_shape(folder: Path) -> None:
    other = folder.parent / "other"
    build_untrained(other, 1, replace(DEMO, layers=1, hidden=64))
    shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")


def _more_words(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    room = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"] - len(tokenizer)
    tokenizer.add_tokens([f"<word {number}>" for number in range(room + 1)])
    tokenizer.save_pretrained(folder)


EMBEDDING = "model.language_model.embed_tokens.weight"

# fmt: off
BREAKS: list[tuple[Callable[[Path], object], str]] = [
    (_other_architecture, "broken/config.json: the model_type is 'llama', not 'qwen3_vl'"),
    (_pickles_only, "only pytorch_model.bin, and a pickle can run code when it is read"),
    (_lost_tensor, "the weights lack 1 tensors, the first is model.visual.pos_embed.weight"),
    (_cut_weights, "broken/model.safetensors: it is damaged"),
    (_other_shape, "broken: it cannot be loaded"),
    (_without_numbers(EMBEDDING, math.nan), f"broken: the tensor {EMBEDDING} holds NaN or infinity"),
    (_without_numbers(EMBEDDING, -math.inf), f"broken: the tensor {EMBEDDING} holds NaN or infinity"),
    (_more_words, "tokens, and the model"),
    (_edit("config.json", image_token_id=7), "the image token is"),
    (_pickled_shards, "it names 'pytorch_model-00001-of-00001.bin', which is no safetensors file"),
    (_edit("config.json", quantization_config={"quant_method": "awq"}), "broken: it cannot be loaded"),
    (_shard_elsewhere, "broken/model.safetensors.index.json: there is no file '../model.safetensors'"),
    (lambda folder: (folder / "config.json").write_text("{"), "broken/config.json: it is not JSON"),
    (lambda folder: (folder / "config.json").unlink(), "broken: it has no config.json"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "it has no tokenizer.json and no vocab.json with merges.txt"),
    (lambda folder: (folder / "tokenizer_config.json").unlink(), "it has no tokenizer_config.json"),
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


def test_weights_whose_sum_is_more_than_a_float_holds_are_numbers(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    tensors[EMBEDDING].view(-1)[:4] = torch.finfo(torch.float32).max
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})

    assert load_model(broken).model.get_input_embeddings().weight.max() > 1e38


def test_a_checkpoint_with_the_files_that_qwen_publishes_is_the_same_model(untrained: Path, broken: Path) -> None:
    parts = json.loads((broken / "processor_config.json").read_text())
    of_video = parts["video_processor"]
    (broken / "preprocessor_config.json").write_text(
        json.dumps(parts["image_processor"] | {"processor_class": "Qwen3VLProcessor"})
    )
    (broken / "video_preprocessor_config.json").write_text(json.dumps(of_video))
    template = (broken / "chat_template.jinja").read_text()
    (broken / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    for name in ("processor_config.json", "chat_template.jinja"):
        (broken / name).unlink()

    ours, theirs = (load_model(folder).processor for folder in (untrained, broken))

    assert theirs.chat_template == ours.chat_template
    assert theirs.image_processor.size == ours.image_processor.size
    assert theirs.video_processor.size == ours.video_processor.size
    assert type(theirs.image_processor) is type(ours.image_processor)


def test_weights_in_several_files_are_read_as_one_model(untrained: Path, broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    shards = {name: f"model-{number % 2 + 1:05}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({n: tensors[n] for n, at in shards.items() if at == shard}, broken / shard, {"format": "pt"})
    (broken / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))

    whole, split = (load_model(folder).model.state_dict() for folder in (untrained, broken))

    assert all(torch.equal(whole[name], split[name]) for name in whole)


def test_memory_that_runs_out_is_told_from_other_errors() -> None:
    def too_much() -> torch.Tensor:
        return torch.empty(2**60, dtype=torch.uint8)  # an exbibyte, from torch's own allocator

    def wrong() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(OutOfMemory, match="memory ran out"):
        naming_out_of_memory(too_much)
    with pytest.raises(RuntimeError, match="shapes differ"):
        naming_out_of_memory(wrong)
