"""A tensor that is merged some rows at a time is what PEFT makes of it at once, however many threads compute it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.qwen.test_merging import READER, WORDS_IN, WORDS_OUT, adapter_for, ours, peft, weights
from workers.qwen.checkpoint import WEIGHTS
from workers.qwen.demo.architecture import DEMO, build_untrained
from workers.qwen.exporting.merging import Merging


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bases whose every kind of tensor has more rows than are merged at a time, and whose words are two tensors."""
    folder = tmp_path_factory.mktemp("tall")
    build_untrained(folder / "fp32", 1, type(DEMO)(layers=1, vision_layers=1, vision_hidden=128, deepstack=()))
    config = json.loads((folder / "fp32" / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "fp32" / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "fp32" / WEIGHTS)
    save_file({**tensors, WORDS_OUT: tensors[WORDS_IN].flip(0).contiguous()}, folder / "fp32" / WEIGHTS)
    halved = Path(shutil.copytree(folder / "fp32", folder / "bf16"))
    READER.from_pretrained(folder / "fp32", dtype=torch.bfloat16).save_pretrained(halved)
    return {"fp32": folder / "fp32", "bf16": halved}


# fmt: off
IN_PIECES: list[dict[str, Any]] = [
    {"r": 40},
    {"r": 40, "use_dora": True},
    {"target_modules": r".*patch_embed\.proj"},
    {"target_modules": r".*patch_embed\.proj", "use_dora": True},
    {"target_modules": ["embed_tokens", "lm_head"]},
]
# fmt: on


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", IN_PIECES, ids=str)
def test_tensors_that_are_merged_in_pieces_are_within_one_unit_in_the_last_place_by_any_number_of_threads(
    tall: dict[str, Path], tmp_path: Path, settings: dict[str, Any], dtype: str
) -> None:
    adapter = adapter_for(tall[dtype], tmp_path / "adapter", **settings)
    theirs = peft(tall[dtype], adapter).state_dict()
    threads = torch.get_num_threads()
    # when a tensor is merged some rows at a time, by one thread and by several
    sums = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            sums.append(ours(tall[dtype], adapter, tmp_path / str(number), Merging(piece=4096)).sums)
    finally:
        torch.set_num_threads(threads)
    # then it is what PEFT makes of it at once
    assert sums[0] == sums[1]
    found, before = weights(tmp_path / "1"), weights(tall[dtype])
    assert [name for name, tensor in found.items() if len(tensor) > 64 and not torch.equal(tensor, before[name])]
    for name, tensor in found.items():
        step = torch.nextafter(theirs[name].abs(), torch.full_like(theirs[name], torch.inf)) - theirs[name].abs()
        assert ((tensor - theirs[name]).abs() <= step).all(), name
