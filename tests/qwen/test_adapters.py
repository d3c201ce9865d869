import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.qwen.adapted import KINDS, LANGUAGE, WORDS, make_adapter, said_by
from vlyard.errors import InvalidInput
from workers.qwen.demo.architecture import DEMO, SMALLEST, build_untrained
from workers.qwen.loading import LoadedModel, load_model
from workers.qwen.sharing import put_on

WEIGHTS = "adapter_model.safetensors"
QUERY = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize("settings", [*KINDS, *WORDS], ids=str)
def test_a_model_with_an_adapter_says_what_pefts_own_model_says(
    untrained: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    expected = make_adapter(untrained, tmp_path / "mine", **settings)

    loaded = load_model(untrained, tmp_path / "mine")

    assert type(loaded.model) is type(load_model(untrained).model)
    torch.testing.assert_close(said_by(loaded.model), expected, atol=1e-4, rtol=1e-4)
    assert (said_by(load_model(untrained).model) - expected).abs().max() > 0.01
    assert loaded.name == "untrained with mine"


def test_an_adapter_for_another_base_by_its_name_is_noted(untrained: Path, tmp_path: Path) -> None:
    make_adapter(untrained, tmp_path / "mine")
    _edit("base_model_name_or_path", "Qwen/Qwen3-VL-2B-Instruct")(tmp_path / "mine")

    noted = load_model(untrained, tmp_path / "mine").notes

    assert noted == ("the adapter says that it is for Qwen3-VL-2B-Instruct, and was put on untrained",)


def test_an_adapter_for_another_base_is_refused_with_the_first_tensor_and_both_shapes(
    untrained: Path, tmp_path: Path
) -> None:
    build_untrained(tmp_path / "deeper", 1, DEMO)
    build_untrained(tmp_path / "wider", 1, type(SMALLEST)(1, 256, 2, 64, (0,)))
    for base in ("deeper", "wider"):
        make_adapter(tmp_path / base, tmp_path / f"for-{base}")

    with pytest.raises(InvalidInput) as deeper:
        load_model(untrained, tmp_path / "for-deeper")
    with pytest.raises(InvalidInput) as wider:
        load_model(untrained, tmp_path / "for-wider")

    assert "changes 'model.language_model.layers.1." in str(deeper.value)
    assert "which the model does not have (it is for another base model" in str(deeper.value)
    assert f"for-wider/{WEIGHTS}: the tensor base_model.model.model.language_model.layers.0." in str(wider.value)
    assert "has the shape (4, 512), and the model needs (r, 256)" in str(wider.value)


def _edit(name: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {name: value}))

    return damage


def _retensor(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


# fmt: off
BREAKS: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "broken: there is no such folder"),
    (lambda folder: (folder / "adapter_config.json").unlink(), "broken: it has no adapter_config.json"),
    (lambda folder: (folder / "adapter_config.json").write_text("[]"), "adapter_config.json: it is not a JSON object"),
    (lambda folder: (folder / WEIGHTS).unlink(), f"broken: it has no {WEIGHTS} (copy the whole"),
    (_pickled, f"broken: it has no {WEIGHTS}, only adapter_model.bin, and a pickle can run code"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 64), f"broken/{WEIGHTS}: it is damaged"),
    (_edit("peft_type", "IA3"), "the peft_type is 'IA3', not 'LORA'"),
    (_edit("init_lora_weights", "pissa"), "it began as 'pissa', which changes the base's weights"),
    (_edit("layer_replication", [[0, 1]]), "it sets layer_replication, which is not supported"),
    (_edit("megatron_config", {"a": 1}), "it sets megatron_config, which is not supported"),
    (_edit("target_modules", ["v_proj"]), "is of no module that adapter_config.json names"),
    (_edit("target_modules", LANGUAGE.replace("q_proj", "q_proj|o_proj")), "it lacks 2 of its 8 tensors, the first is"),
    (_edit("target_modules", 7), "broken: it cannot be put on the model"),
    (_edit("r", 8), "broken: it cannot be put on the model"),
    (_edit("r", "many"), "broken: it cannot be put on the model"),
    (_retensor(lambda tensors: tensors.pop(f"{QUERY}.lora_B.weight")), "it lacks 1 of its 6 tensors, the first is"),
    (_retensor(dict.clear), "it holds no tensors"),
    (_retensor(lambda tensors: tensors[f"{QUERY}.lora_A.weight"].fill_(math.nan)), "lora_A.weight holds NaN"),
    (_retensor(lambda tensors: tensors.update(other=torch.zeros(2))), "the tensor other is not one of LoRA's"),
    (_retensor(lambda tensors: tensors.update({f"{QUERY}.lora_embedding_A": torch.zeros(4, 4)})), "embedding_A is not"),
]
# fmt: on


@pytest.fixture(scope="module")
def mine(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "mine"
    make_adapter(untrained, folder)
    return folder


@pytest.fixture(scope="module")
def base(untrained: Path) -> LoadedModel:
    return load_model(untrained)


@pytest.mark.parametrize(("damage", "said"), BREAKS, ids=[said for _, said in BREAKS])
def test_an_adapter_that_is_not_right_is_refused_and_named_whichever_way_it_is_put_on(
    untrained: Path, base: LoadedModel, mine: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    broken = Path(shutil.copytree(mine, tmp_path / "broken"))
    damage(broken)

    with pytest.raises(InvalidInput) as refusal:
        load_model(untrained, broken)
    with pytest.raises(InvalidInput) as the_other:
        put_on(base, broken)

    assert said in str(refusal.value)
    assert said in str(the_other.value)


def test_an_adapter_that_does_not_fit_is_refused_before_the_models_weights_are_read(
    untrained: Path, mine: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(untrained, tmp_path / "base"))
    (base / "model.safetensors").write_bytes(b"whoever reads this as weights complains about it")
    broken = Path(shutil.copytree(mine, tmp_path / "broken"))
    _retensor(lambda tensors: tensors.update(other=torch.zeros(2)))(broken)

    with pytest.raises(InvalidInput, match=r"broken/adapter_model\.safetensors"):
        load_model(base, broken)
