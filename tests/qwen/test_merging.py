import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from tests.qwen.adapted import KINDS, LANGUAGE, WORDS, said_by
from vlyard.errors import InvalidInput
from workers.qwen.checkpoint import INDEX, WEIGHTS
from workers.qwen.exporting.folder import complete
from workers.qwen.exporting.journal import JOURNAL
from workers.qwen.exporting.merging import Merged, Merging, merge
from workers.qwen.exporting.shards import tensors_of

ADAPTER = "adapter_model.safetensors"
WORDS_IN, WORDS_OUT = "model.language_model.embed_tokens.weight", "lm_head.weight"
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
READER: Any = Qwen3VLForConditionalGeneration
NEAR: dict[str, Any] = {"fp32": {"atol": 1e-4, "rtol": 1e-4}, "bf16": {"atol": 0.05, "rtol": 0.05}}

# fmt: off
MORE: list[dict[str, Any]] = [
    {"target_modules": r".*(merger.*linear_fc1|qkv|q_proj)", "use_dora": True, "use_rslora": True},
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["embed_tokens"]},
    {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    {"modules_to_save": ["lm_head"], "target_modules": ["embed_tokens"]},
    {"modules_to_save": ["embed_tokens"], "target_modules": ["lm_head"]},
]
# fmt: on


@pytest.fixture(scope="module")
def bases(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    halved = Path(shutil.copytree(untrained, folder / "bf16"))
    READER.from_pretrained(untrained, dtype=torch.bfloat16).save_pretrained(halved)
    return {"fp32": untrained, "bf16": halved}


def adapter_for(base: Path, folder: Path, **settings: Any) -> Path:
    """An adapter whose every tensor is random."""
    torch.manual_seed(4)
    wanted: dict[str, Any] = {"r": 4, "target_modules": LANGUAGE, "init_lora_weights": False, **settings}
    adapted: Any = get_peft_model(READER.from_pretrained(base), LoraConfig(**wanted))
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name or name.endswith("bias"):
            parameter.data += torch.randn_like(parameter)
    adapted.save_pretrained(str(folder))
    return folder


def peft(base: Path, adapter: Path, dtype: Any = "auto") -> Any:
    return PeftModel.from_pretrained(READER.from_pretrained(base, dtype=dtype), str(adapter)).merge_and_unload()


def ours(base: Path, adapter: Path | None, output: Path, options: Merging | None = None) -> Merged:
    return merge(base, adapter, output, options or Merging(), told=lambda *_: None, check=lambda: None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", [*KINDS, *MORE], ids=str)
def test_every_tensor_is_bit_by_bit_what_peft_merges_and_saves(
    bases: dict[str, Path], tmp_path: Path, settings: dict[str, Any], dtype: str
) -> None:
    adapter = adapter_for(bases[dtype], tmp_path / "adapter", **settings)
    theirs = peft(bases[dtype], adapter)
    theirs.save_pretrained(tmp_path / "theirs")

    merged = ours(bases[dtype], adapter, tmp_path / "ours")

    assert_same_bits(weights(tmp_path / "ours"), weights(tmp_path / "theirs"))
    assert (merged.dtype, merged.merged) == (dtype, True)
    assert merged.tied == theirs.config.tie_word_embeddings == (WORDS_OUT not in weights(tmp_path / "ours"))
    before = weights(bases[dtype])
    assert any(not torch.equal(tensor, before.get(name, tensor)) for name, tensor in weights(tmp_path / "ours").items())


@pytest.fixture(scope="module")
def apart(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose words in and out are two tensors."""
    return untied(bases["bf16"], tmp_path_factory.mktemp("apart") / "apart", lambda words: words.flip(0).contiguous())


def untied(base: Path, folder: Path, out: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, WORDS_OUT: out(tensors[WORDS_IN])}, folder / WEIGHTS)
    return folder


def test_adapters_of_the_words_are_merged_where_words_in_and_out_are_two_tensors(apart: Path, tmp_path: Path) -> None:
    adapter = adapter_for(apart, tmp_path / "adapter", target_modules=["embed_tokens", "lm_head"])
    peft(apart, adapter).save_pretrained(tmp_path / "theirs")

    ours(apart, adapter, tmp_path / "ours")

    assert_same_bits(weights(tmp_path / "ours"), weights(tmp_path / "theirs"))
    before = weights(apart)
    assert all(not torch.equal(before[name], weights(tmp_path / "ours")[name]) for name in (WORDS_IN, WORDS_OUT))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", WORDS, ids=str)
def test_an_adapter_of_words_that_are_one_tensor_changes_each_end_once_and_says_what_it_said_before(
    bases: dict[str, Path], tmp_path: Path, settings: dict[str, Any], dtype: str
) -> None:
    adapter = adapter_for(bases[dtype], tmp_path / "adapter", **settings)
    expected = said_by(PeftModel.from_pretrained(READER.from_pretrained(bases[dtype]), str(adapter)).eval())

    merged = ours(bases[dtype], adapter, tmp_path / "ours")

    # then it is, bit by bit, what PEFT merges into the same base with two tensors, or with one that both ends stay
    theirs = peft(untied(bases[dtype], tmp_path / "untied", torch.clone), adapter).state_dict()
    if settings.get("ensure_weight_tying"):
        del theirs[WORDS_OUT]
    assert_same_bits(weights(tmp_path / "ours"), theirs)
    assert merged.tied == (WORDS_OUT not in theirs)
    # and plain transformers say with it what the base says with the adapter
    complete(bases[dtype], adapter, tmp_path / "ours", merged, named="demo")
    told = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert told["tie_word_embeddings"] == told["text_config"]["tie_word_embeddings"] == merged.tied
    torch.testing.assert_close(said_by(READER.from_pretrained(tmp_path / "ours").eval()), expected, **NEAR[dtype])


def test_a_base_that_says_its_words_are_one_tensor_and_has_two_is_merged_as_it_is_loaded(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    base = untied(bases["fp32"], tmp_path / "base", lambda words: words.flip(0).contiguous())
    shutil.copyfile(bases["fp32"] / "config.json", base / "config.json")
    adapter = adapter_for(base, tmp_path / "adapter", modules_to_save=["embed_tokens"])

    merged = ours(base, adapter, tmp_path / "ours")

    assert_same_bits(weights(tmp_path / "ours"), peft(base, adapter).state_dict())
    assert not merged.tied


@pytest.mark.parametrize(("has", "wanted"), [("bf16", "fp32"), ("fp32", "bf16"), ("fp32", "fp16")])
def test_another_dtype_is_rounded_once_from_a_sum_in_the_wider(
    bases: dict[str, Path], tmp_path: Path, has: str, wanted: Any
) -> None:
    adapter = adapter_for(bases[has], tmp_path / "adapter")
    theirs = peft(bases[has], adapter, torch.float32).to(TYPES[wanted])
    theirs.save_pretrained(tmp_path / "theirs")

    merged = ours(bases[has], adapter, tmp_path / "ours", Merging(dtype=wanted))

    assert merged.dtype == wanted
    assert_same_bits(weights(tmp_path / "ours"), weights(tmp_path / "theirs"))


def test_without_an_adapter_the_tensors_are_the_bases(bases: dict[str, Path], tmp_path: Path) -> None:
    merged = ours(bases["bf16"], None, tmp_path / "same")
    ours(bases["bf16"], None, tmp_path / "wider", Merging(dtype="fp32"))

    assert_same_bits(weights(tmp_path / "same"), weights(bases["bf16"]))
    assert_same_bits(weights(tmp_path / "wider"), {n: t.float() for n, t in weights(bases["bf16"]).items()})
    assert (merged.merged, merged.dtype) == (False, "bf16")
    assert merged.bytes == 2 * merged.parameters == sum(t.nbytes for t in weights(bases["bf16"]).values())


def test_a_base_in_files_becomes_files_of_at_most_the_size_that_is_wanted(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    READER.from_pretrained(bases["fp32"]).save_pretrained(tmp_path / "base", max_shard_size="300KB")
    adapter = adapter_for(tmp_path / "base", tmp_path / "adapter", target_modules="all-linear", use_dora=True)
    peft(tmp_path / "base", adapter).save_pretrained(tmp_path / "theirs")

    ours(tmp_path / "base", adapter, tmp_path / "ours", Merging(shard_bytes=1_000_000))

    assert len(list((tmp_path / "base").glob("*.safetensors"))) > len(list((tmp_path / "ours").glob("*-of-*"))) > 1
    for file in (tmp_path / "ours").glob("*.safetensors"):
        assert file.stat().st_size <= 1_000_000 or len(tensors_of(file)) == 1
    # and they are the same when they are written side by side
    several, heard = Merging(shard_bytes=1_000_000), list[float]()
    merge(
        tmp_path / "base", adapter, tmp_path / "together", several,
        told=lambda done, _: heard.append(done), check=lambda: None, side_by_side=3,
    )  # fmt: skip
    for file in (tmp_path / "ours").iterdir():
        assert (tmp_path / "together" / file.name).read_bytes() == file.read_bytes()
    assert heard == sorted(heard)
    assert heard[-1] == 1
    index = json.loads((tmp_path / "ours" / INDEX).read_text())
    assert index["weight_map"].keys() == weights(tmp_path / "theirs").keys()
    assert_same_bits(weights(tmp_path / "ours"), weights(tmp_path / "theirs"))
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(tmp_path / "base" / name, tmp_path / "ours" / name)
    _, report = READER.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


# --- killed and resumed ---------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from workers.qwen.exporting.merging import Merging, merge

base, adapter, output = map(Path, sys.argv[1:])

def told(done, what):
    if done > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

merge(base, adapter, output, Merging(shard_bytes=1_000_000), told=told, check=lambda: None)
"""


def test_a_merge_that_was_killed_goes_on_behind_its_finished_files_and_ends_with_the_same_bytes(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    base, adapter = bases["fp32"], adapter_for(bases["fp32"], tmp_path / "adapter", use_dora=True)
    options = Merging(shard_bytes=1_000_000)
    expected = ours(base, adapter, tmp_path / "whole", options)
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), base, adapter, tmp_path / "killed"], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.safetensors")}
    assert 0 < len(finished) < len(expected.sums)
    time.sleep(0.02)

    resumed = ours(base, adapter, tmp_path / "killed", options)

    assert resumed == expected
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == files
    for name in files:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in finished} == finished


def _begun(base: Path, adapter: Path, output: Path) -> None:
    class Stopped(Exception):
        pass

    def told(done: float, _: str) -> None:
        if done > 0.5:
            raise Stopped

    with pytest.raises(Stopped):
        merge(base, adapter, output, Merging(shard_bytes=1_000_000), told=told, check=lambda: None)
    assert (output / JOURNAL).is_file()


def test_what_was_finished_of_another_adapter_or_was_changed_since_is_written_again(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    base, options = bases["fp32"], Merging(shard_bytes=1_000_000)
    first = adapter_for(base, tmp_path / "first")
    other = adapter_for(base, tmp_path / "other", lora_alpha=99)
    expected = {each: ours(base, each, tmp_path / f"{each.name}-whole", options).sums for each in (first, other)}

    _begun(base, first, tmp_path / "another")
    _begun(base, first, tmp_path / "changed")
    broken = min((tmp_path / "changed").glob("*.safetensors"))
    broken.write_bytes(broken.read_bytes()[:-1] + b"\x7f")

    assert ours(base, other, tmp_path / "another", options).sums == expected[other]
    assert ours(base, first, tmp_path / "changed", options).sums == expected[first]
    assert expected[first] != expected[other]


def test_it_stops_when_it_is_told_to(bases: dict[str, Path], tmp_path: Path) -> None:
    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(bases["fp32"], None, tmp_path / "ours", Merging(), told=lambda *_: None, check=check)

    assert not (tmp_path / "ours" / WEIGHTS).exists()


# --- refused --------------------------------------------------------------------------------------------------


def _set(name: str, value: object) -> Callable[[Path, Path], None]:
    def damage(_: Path, adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return damage


def _tensors(which: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Path], None]:
    def damage(base: Path, adapter: Path) -> None:
        file = base / WEIGHTS if which == "base" else adapter / ADAPTER
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return damage


def _quantised(base: Path, _: Path) -> None:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))


QUERY = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
NORM = "model.language_model.norm.weight"
# fmt: off
REFUSED: list[tuple[Callable[[Path, Path], object], str]] = [
    (_set("peft_type", "IA3"), "the peft_type is 'IA3', not 'LORA'"),
    (_set("use_qalora", True), "it sets use_qalora, which is not supported"),
    (_set("lora_bias", True), "it sets lora_bias, which is not supported"),
    (_set("init_lora_weights", "pissa"), "it began as 'pissa'"),
    (_set("r", 8), "has the rank 4, and adapter_config.json says 8"),
    (_set("target_modules", ["v_proj"]), "is of no module that adapter_config.json names"),
    (_set("target_modules", LANGUAGE.replace("q_proj", "q_proj|o_proj")), "it lacks 2 of its 8 tensors, the first is"),
    (_set("target_modules", 7), "adapter: it cannot be put on the model"),
    (_tensors("adapter", lambda tensors: tensors.update(other=torch.zeros(2))), "other is not one of LoRA's"),
    (_tensors("adapter", lambda held: held[f"{QUERY}.lora_A.weight"].fill_(torch.nan)), "holds NaN"),
    (_tensors("adapter", lambda held: held.update({f"{QUERY}.lora_B.weight": torch.ones(9, 4)})), "the shape"),
    (_tensors("base", lambda tensors: tensors.pop(NORM)), f"the weights lack 1 tensors, the first is {NORM}"),
    (_tensors("base", lambda tensors: tensors.update({NORM: torch.zeros(3)})), f"the tensor {NORM} has the shape (3,)"),
    (_tensors("base", lambda tensors: tensors.update(more=torch.zeros(3))), "the tensor more is none of the model's"),
    (lambda base, _: (base / WEIGHTS).write_bytes(b"x" * 64), "it is damaged"),
    (lambda base, _: (base / "config.json").unlink(), "it has no config.json"),
    (_quantised, "its weights are quantised"),
    (lambda base, to: adapter_for(base, to, target_modules=["embed_tokens"], use_dora=True), "scales each column of"),
]
# fmt: on


@pytest.fixture(scope="module")
def pair(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return bases["fp32"], adapter_for(bases["fp32"], tmp_path_factory.mktemp("pair") / "adapter")


@pytest.mark.parametrize(("damage", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_not_understood_or_does_not_fit_is_named_before_anything_is_written(
    pair: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path, Path], object], said: str
) -> None:
    base, adapter = (Path(shutil.copytree(each, tmp_path / each.name)) for each in pair)
    damage(base, adapter)

    with pytest.raises(InvalidInput) as refusal:
        ours(base, adapter, tmp_path / "ours")

    assert said in str(refusal.value)
    assert not (tmp_path / "ours").exists()


def test_weights_in_eight_bits_that_an_adapter_changes_are_refused_by_their_name(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(bases["bf16"], tmp_path / "base"))
    tensors, name = load_file(base / WEIGHTS), QUERY.removeprefix("base_model.model.") + ".weight"
    save_file({**tensors, name: tensors[name].to(torch.float8_e4m3fn)}, base / WEIGHTS)
    adapter = adapter_for(bases["bf16"], tmp_path / "adapter")

    with pytest.raises(InvalidInput, match=f"base: the adapter changes the tensor {name}, which is stored in F8_E4M3"):
        ours(base, adapter, tmp_path / "ours")


def test_a_number_that_the_wanted_dtype_cannot_hold_is_named(bases: dict[str, Path], tmp_path: Path) -> None:
    base = Path(shutil.copytree(bases["bf16"], tmp_path / "base"))
    tensors = load_file(base / WEIGHTS)
    tensors[NORM][0] = 1e9
    save_file(tensors, base / WEIGHTS)

    with pytest.raises(InvalidInput, match=f"the tensor {NORM} holds .* a number too large for float16"):
        ours(base, None, tmp_path / "ours", Merging(dtype="fp16"))

    assert os.listdir(tmp_path / "ours") == [f"{WEIGHTS}.partial"]  # noqa: PTH208
