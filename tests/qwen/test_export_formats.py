"""Exports in other formats: fewer bits by torchao, proved like whole ones, and llama.cpp's by its own converter."""

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from tests.qwen.test_verifying import MADE, adapter_of, looked_at
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import Cancelled, InvalidInput, VerificationFailed
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.exporting.folder import complete, read_sums, write_sums
from workers.qwen.exporting.gguf import to_gguf
from workers.qwen.exporting.merging import Merging, merge
from workers.qwen.exporting.quantising import quantise
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.verifying.answers import Question

READER: Any = Qwen3VLForConditionalGeneration
LAYER = "model.language_model.layers.1.self_attn.q_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return adapter_of(tmp_path / "adapter")


@pytest.fixture
def whole(adapter: Path, tmp_path: Path) -> Path:
    """An export of whole weights in the base's own type."""
    merged = merge(DEMO_FOLDER, adapter, tmp_path / "whole", Merging(), told=lambda *_: None, check=lambda: None)
    complete(DEMO_FOLDER, adapter, tmp_path / "whole", merged, named="demo")
    return tmp_path / "whole"


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    pictures = draw_dataset(tmp_path / "drawn", 2, 3)
    return [Question(Image.open(path).convert("RGB"), DEFAULT_PROMPT, path.name) for path in pictures]


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_layers_in_fewer_bits_are_proved_beside_the_whole_model(
    whole: Path, adapter: Path, questions: list[Question], tmp_path: Path, bits: Any
) -> None:
    # when an export is quantised
    sums = quantise(whole, tmp_path / bits, bits, 5_000_000_000)
    # then the layers are, and nothing else
    stored = load_file(tmp_path / bits / "model.safetensors")
    assert stored[f"{LAYER}._weight_qdata"].dtype is torch.int8
    assert stored["model.visual.merger.linear_fc2.weight"].dtype is torch.bfloat16
    largest = 127 if bits == "int8" else 7
    assert int(stored[f"{LAYER}._weight_qdata"].max()) == largest
    # and it is complete, and proved
    assert sums == read_sums(tmp_path / bits)
    assert f"in {bits}" in (tmp_path / bits / "README.md").read_text(encoding="utf-8")
    found = looked_at(tmp_path / bits, adapter, questions, tmp_path / "work")
    assert found.dtype == bits
    assert found.parameters == sum(each.numel() for each in READER.from_pretrained(DEMO_FOLDER).parameters())


def test_one_number_of_a_quantised_layer_that_is_another_step_is_found(
    whole: Path, adapter: Path, questions: list[Question], tmp_path: Path
) -> None:
    quantise(whole, tmp_path / "int8", "int8", 5_000_000_000)
    path = tmp_path / "int8" / "model.safetensors"
    tensors = load_file(path)
    tensors[f"{LAYER}._weight_qdata"][3, 5] ^= 2
    save_file(tensors, path, metadata={"format": "pt"})
    write_sums(tmp_path / "int8")

    with pytest.raises(VerificationFailed, match=rf"1 of the [\d,]+ numbers of {LAYER}\.weight are not those"):
        looked_at(tmp_path / "int8", adapter, questions, tmp_path / "work")


def test_a_model_whose_rows_cannot_be_divided_is_refused_with_the_reason(whole: Path, tmp_path: Path) -> None:
    config = json.loads((whole / "config.json").read_text())
    config["text_config"]["hidden_size"] = 100
    (whole / "config.json").write_text(json.dumps(config))

    with pytest.raises(InvalidInput, match="/spec/format: the weights cannot be of int4"):
        quantise(whole, tmp_path / "int4", "int4", 5_000_000_000)


# --- llama.cpp ------------------------------------------------------------------------------------------------


def converter(folder: Path, body: str) -> Path:
    """A program with the arguments of llama.cpp's converter."""
    path = folder / "convert_hf_to_gguf.py"
    path.write_text(
        "import argparse, pathlib, sys, time\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('model', type=pathlib.Path)\n"
        "parser.add_argument('--outfile', type=pathlib.Path)\n"
        "parser.add_argument('--outtype', choices=['f32', 'f16', 'bf16', 'q8_0', 'auto'])\n"
        "parser.add_argument('--mmproj', action='store_true')\n"
        "asked = parser.parse_args()\n" + textwrap.dedent(body)
    )
    return path


def test_both_files_are_made_by_the_operators_converter(whole: Path, tmp_path: Path) -> None:
    program = converter(
        tmp_path,
        """
        assert (asked.model / "model.safetensors").is_file()
        asked.outfile.write_text(f"GGUF {asked.outtype} {asked.mmproj}")
        """,
    )

    sums = to_gguf(whole, tmp_path / "out", program, lambda: None)

    assert sums.keys() == {"README.md", "model-f16.gguf", "mmproj-f16.gguf"}
    assert (tmp_path / "out" / "model-f16.gguf").read_text() == "GGUF f16 False"
    assert (tmp_path / "out" / "mmproj-f16.gguf").read_text() == "GGUF f16 True"
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "llama-mtmd-cli -m model-f16.gguf --mmproj mmproj-f16.gguf" in card
    assert "AutoModelForImageTextToText" not in card
    assert MADE.dataset in card


def test_without_a_converter_it_is_said_what_would_bring_it(whole: Path, tmp_path: Path) -> None:
    for path in (None, tmp_path / "away.py"):
        with pytest.raises(InvalidInput, match=r"/spec/format: .*VLYARD_GGUF_CONVERTER"):
            to_gguf(whole, tmp_path / "out", path, lambda: None)


def test_a_converter_that_fails_is_quoted_and_one_that_hangs_is_stopped(whole: Path, tmp_path: Path) -> None:
    program = converter(tmp_path, "raise NotImplementedError('BPE pre-tokenizer was not recognized')")
    with pytest.raises(InvalidInput, match="converter failed: NotImplementedError: BPE pre-tokenizer was not"):
        to_gguf(whole, tmp_path / "failed", program, lambda: None)

    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        to_gguf(whole, tmp_path / "stopped", converter(tmp_path, "time.sleep(100)"), stop)
    shutil.rmtree(tmp_path / "stopped")
