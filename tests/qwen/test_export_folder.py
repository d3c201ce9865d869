"""The folder that leaves: whatever opens it, opens it as it was trained."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoProcessor, GenerationConfig, Qwen3VLForConditionalGeneration

from tests.qwen.adapted import LANGUAGE
from vlyard.errors import InvalidInput
from vlyard.jobs.export import Provenance, Stage
from workers.qwen.exporting.card import loading_code
from workers.qwen.exporting.folder import CARD, SUMS, complete, read_sums
from workers.qwen.exporting.merging import Merging, merge
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.manifest import MANIFEST, Manifest, write_manifest

READER: Any = Qwen3VLForConditionalGeneration
PROCESSOR: Any = AutoProcessor
TEMPLATE = "{{ messages[-1]['content'][-1]['text'] }} as it was trained"
MADE = Manifest(
    base="hub:vision/street@1234",
    method="lora",
    prompt='Where are the "red" shapes?',
    system="You look closely.",
    chat_template=None,
    min_pixels=32 * 32 * 2,
    max_pixels=32 * 32 * 6,
    dataset="0198c0de-0000-7000-8000-000000000001",
    dataset_sha256="ab" * 32,
    spec={"epochs": 3},
    metrics={"loss": 0.25},
    libraries={"torch": "2.14.1"},
    seed=7,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_FOLDER, tmp_path / "base"))


def adapter_of(base: Path, folder: Path, manifest: Manifest = MADE) -> Path:
    config = LoraConfig(r=2, target_modules=LANGUAGE, init_lora_weights=False)
    get_peft_model(READER.from_pretrained(base), config).save_pretrained(str(folder))
    write_manifest(folder, manifest)
    return folder


def exported(base: Path, adapter: Path | None, output: Path, lineage: Provenance | None = None, **options: Any) -> Path:
    merged = merge(base, adapter, output, Merging(**options), told=lambda *_: None, check=lambda: None)
    complete(base, adapter, output, merged, named="demo", lineage=lineage)
    return output


def test_plain_transformers_see_pictures_and_words_as_the_training_did(base: Path, tmp_path: Path) -> None:
    # given an adapter that was trained on small pictures, with a template of its own
    adapter = adapter_of(base, tmp_path / "adapter", MADE.model_copy(update={"chat_template": TEMPLATE}))
    # when it leaves
    folder = exported(base, adapter, tmp_path / "out")
    # then a large picture becomes as many patches as it was allowed there, and the words are the template's
    processor = PROCESSOR.from_pretrained(folder)
    picture = Image.new("RGB", (1024, 1024))
    frames, rows, columns = processor(text="<|image_pad|>", images=picture, return_tensors="pt")["image_grid_thw"][0]
    side = processor.image_processor.patch_size
    assert 0 < frames * rows * columns * side**2 <= MADE.max_pixels
    turn = [{"role": "user", "content": [{"type": "text", "text": "Well?"}]}]
    assert processor.apply_chat_template(turn) == "Well? as it was trained"
    before = PROCESSOR.from_pretrained(base)(text="<|image_pad|>", images=picture, return_tensors="pt")
    assert before["image_grid_thw"][0].tolist() != [frames, rows, columns]


def test_every_file_is_in_the_sums_as_the_shells_tool_reads_them(base: Path, tmp_path: Path) -> None:
    folder = exported(base, None, tmp_path / "out")

    ran = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=folder, capture_output=True, text=True, check=False
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert read_sums(folder).keys() == there - {SUMS}
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert read_sums(folder)["model.safetensors"] == weights


def test_the_same_model_leaves_as_the_same_bytes_wherever_it_lies(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")
    elsewhere = Path(shutil.copytree(base, tmp_path / "elsewhere" / "base"))

    first = exported(base, adapter, tmp_path / "first")
    second = exported(elsewhere, adapter, tmp_path / "far" / "second")

    assert (first / SUMS).read_bytes() == (second / SUMS).read_bytes()
    for name in read_sums(first):
        assert str(tmp_path).encode() not in (first / name).read_bytes(), name


def test_the_card_says_where_the_model_comes_from_and_how_well_it_does(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")

    (base / CARD).write_text("---\nlicense: apache-2.0\nlicense_link: https://example.org/l\n---\n# Qwen\n")
    (base / "LICENSE").write_text("Apache License")
    training, evaluation = uuid4(), uuid4()
    stages = (
        Stage(kind="training", job=training, figures={"loss": 0.25}),
        Stage(kind="evaluation", job=evaluation, figures={"f1": 0.8834, "mean_iou": 0.68}),
    )
    came = Provenance(model="vision/signs:3", base="hub:vision/street@1234", stages=stages)

    folder = exported(base, adapter, tmp_path / "out", came)

    card = (folder / CARD).read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["base_model"], head["base_model_relation"]) == ("vision/street", "finetune")
    assert (head["license"], head["license_link"]) == ("apache-2.0", "https://example.org/l")
    assert (folder / "LICENSE").read_text() == "Apache License"
    for told in ("hub:vision/street@1234", MADE.dataset, MADE.dataset_sha256, "| loss | 0.25 |", '"epochs": 3'):
        assert told in card
    assert "| version | vision/signs:3 |" in card
    assert f"| training | job `{training}` | loss 0.25 |" in card
    assert f"| evaluation | job `{evaluation}` | f1 0.8834, mean iou 0.68 |" in card


@pytest.mark.parametrize("named", ["vision/street:1", "demo", "0198c0de-0000-7000-8000-000000000001"])
def test_a_base_that_no_hub_has_is_in_the_words_of_the_card_and_not_in_its_head(
    base: Path, tmp_path: Path, named: str
) -> None:
    adapter = adapter_of(base, tmp_path / "adapter", MADE.model_copy(update={"base": named}))

    card = (exported(base, adapter, tmp_path / "out") / CARD).read_text(encoding="utf-8")

    assert yaml.safe_load(card.split("---\n")[1]).keys() == {"library_name", "pipeline_tag", "tags"}
    assert f"`{named}`, with the adapter" in card


def test_the_cards_ten_lines_load_the_folder_and_ask_as_it_was_trained(base: Path, tmp_path: Path) -> None:
    folder = exported(base, adapter_of(base, tmp_path / "adapter"), tmp_path / "out", dtype="fp32")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")

    code = loading_code(str(folder), "What is it?", str(tmp_path / "red.png"))

    assert len(code.splitlines()) <= 10
    assert code.index("You look closely.") < code.index("What is it?")
    [shown] = re.findall(r"```python\n(.*?)```", (folder / CARD).read_text(encoding="utf-8"), re.DOTALL)
    assert shown == loading_code(str(folder), MADE.prompt or "", "<a picture>").replace(str(folder), "<this folder>")
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_base_without_generation_settings_gets_those_of_its_configuration(base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").unlink()

    folder = exported(base, None, tmp_path / "out")

    words = json.loads((base / "config.json").read_text())["text_config"]
    made = GenerationConfig.from_pretrained(folder)
    assert made.eos_token_id == words.get("eos_token_id")


def test_a_base_without_a_chat_template_or_a_readable_processor_is_refused(base: Path, tmp_path: Path) -> None:
    (base / "chat_template.jinja").unlink()
    with pytest.raises(InvalidInput, match="base: it has no chat template"):
        exported(base, None, tmp_path / "first")

    (base / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidInput, match="base: its processor cannot be read"):
        exported(base, None, tmp_path / "second")


def test_an_adapter_whose_manifest_cannot_be_read_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")
    (adapter / MANIFEST).write_text("{}")

    with pytest.raises(InvalidInput, match=MANIFEST):
        exported(base, adapter, tmp_path / "out")
