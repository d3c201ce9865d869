"""An export is taken for the model that it was made of only where it is: every kind of damage is found and named."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from tests.qwen.adapted import KINDS, WORDS
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import VerificationFailed
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.exporting.folder import complete, write_sums
from workers.qwen.exporting.merging import Merging, merge
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.manifest import Manifest, write_manifest
from workers.qwen.verifying.answers import Answered, Question
from workers.qwen.verifying.files import wrong_dtypes, wrong_settings
from workers.qwen.verifying.judging import BOUNDS, judge
from workers.qwen.verifying.verify import Made, Verified, rights_of, verify
from workers.qwen.verifying.weights import wrong_weights

READER: Any = Qwen3VLForConditionalGeneration
LAYER = "model.language_model.layers.0.mlp.down_proj.weight"  # which the adapter changes
NORM = "model.language_model.norm.weight"  # which it does not
SEES = "model.visual.merger.linear_fc2.weight"
MADE = Manifest(
    base="demo",
    method="lora",
    prompt=DEFAULT_PROMPT,
    system="You find shapes.",
    chat_template=None,
    min_pixels=32 * 32,
    max_pixels=32 * 32 * 16,
    dataset="0198c0de-0000-7000-8000-000000000001",
    dataset_sha256="ab" * 32,
    spec={},
    metrics={},
    libraries={},
    seed=7,
)


def adapter_of(folder: Path, **settings: Any) -> Path:
    """An adapter with random matrices that changes the demo model a little."""
    torch.manual_seed(5)
    wanted = {"r": 2, "lora_alpha": 0.6, "target_modules": ["down_proj", "q_proj", "linear_fc1"], **settings}
    adapted: Any = get_peft_model(READER.from_pretrained(DEMO_FOLDER), LoraConfig(init_lora_weights=False, **wanted))
    adapted.save_pretrained(str(folder))
    write_manifest(folder, MADE)
    return folder


def exported(adapter: Path | None, folder: Path, **options: Any) -> Path:
    merged = merge(DEMO_FOLDER, adapter, folder, Merging(**options), told=lambda *_: None, check=lambda: None)
    complete(DEMO_FOLDER, adapter, folder, merged, named="demo")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A sound export in several files, with what it was made of."""
    folder = tmp_path_factory.mktemp("made")
    adapter = adapter_of(folder / "adapter")
    return {"adapter": adapter, "export": exported(adapter, folder / "export", dtype="fp32", shard_bytes=1_000_000)}


@pytest.fixture
def export(made: Mapping[str, Path], tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(made["export"], tmp_path / "export"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    pictures = draw_dataset(tmp_path_factory.mktemp("drawn"), 2, 3)
    return [Question(Image.open(path).convert("RGB"), DEFAULT_PROMPT, path.name) for path in pictures]


def looked_at(
    export: Path,
    adapter: Path | None,
    questions: list[Question],
    work: Path,
    base: Path = DEMO_FOLDER,
    dtype: str | None = None,
) -> Verified:
    work.mkdir()
    return verify(Made(export, base, adapter, dtype), questions, work, told=lambda *_: None, check=lambda: None)


# --- what is sound --------------------------------------------------------------------------------------------


def test_a_sound_export_is_proved_by_everything_that_was_compared(
    made: Mapping[str, Path], questions: list[Question], tmp_path: Path
) -> None:
    found = looked_at(made["export"], made["adapter"], questions, tmp_path / "work")

    assert [right.name for right in found.checks] == [
        "files", "checksums", "names", "shapes", "dtypes", "weights", "processing", "logits", "boxes",
    ]  # fmt: skip
    assert found.judged is not None
    assert (found.dtype, found.judged.same, found.judged.boxes, found.judged.mean_iou) == ("fp32", 2, 2, 1.0)
    assert found.parameters == sum(each.numel() for each in READER.from_pretrained(DEMO_FOLDER).parameters())


@pytest.mark.parametrize(
    ("dtype", "changed_modules"), [("bf16", ["down_proj", "q_proj"]), ("fp16", ["down_proj", "lm_head"])]
)
def test_an_export_in_fewer_bits_is_proved_within_what_its_rounding_costs(
    questions: list[Question], tmp_path: Path, dtype: str, changed_modules: list[str]
) -> None:
    adapter = adapter_of(tmp_path / "adapter", target_modules=changed_modules)
    folder = exported(adapter, tmp_path / "export", dtype=dtype)

    found = looked_at(folder, adapter, questions, tmp_path / "work")

    assert found.dtype == dtype
    assert found.judged is not None
    assert 0 < found.judged.logits < 1
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] == ("lm_head" not in changed_modules)


@pytest.mark.parametrize("settings", [*KINDS, *WORDS], ids=str)
def test_every_kind_of_adapter_has_the_weights_that_its_own_library_merges(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    adapter = adapter_of(tmp_path / "adapter", **settings)

    for dtype in ("fp32", "bf16"):
        folder = exported(adapter, tmp_path / dtype, dtype=dtype)
        assert list(wrong_weights(folder, DEMO_FOLDER, adapter, lambda: None)) == []


def test_words_that_became_two_tensors_have_to_be_two_in_the_weights_and_in_the_settings(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter", target_modules=["lm_head"])
    export = exported(adapter, tmp_path / "export")
    assert list(wrong_settings(export, DEMO_FOLDER, export)) == []
    # when the settings say that they are one
    config = json.loads((export / "config.json").read_text())
    (export / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    [of_settings] = wrong_settings(export, DEMO_FOLDER, export)
    # and the weights have only one
    tensors = load_file(export / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, export / "model.safetensors")
    [of_weights] = wrong_weights(export, DEMO_FOLDER, adapter, lambda: None)

    assert "config.json: it says that the words in and out are one tensor, and the weights have two" in str(of_settings)
    assert "there is no tensor lm_head.weight" in str(of_weights)


# --- what is damaged ------------------------------------------------------------------------------------------


def first_shard(export: Path) -> Path:
    return min(export.glob("model-*.safetensors"))


def shard_of(export: Path, tensor: str) -> Path:
    places = json.loads((export / "model.safetensors.index.json").read_text())["weight_map"]
    return export / str(places[tensor])


def changed(export: Path, tensor: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Put something else in a tensor's place, or nothing."""
    path = shard_of(export, tensor)
    tensors = load_file(path)
    other = change(tensors.pop(tensor))
    save_file(tensors if other is None else {**tensors, tensor: other}, path, metadata={"format": "pt"})


def flipped(weight: torch.Tensor) -> torch.Tensor:
    """One bit of one number: the fourth of those that make it exact."""
    bits = weight.clone().view(torch.int32)
    bits.view(-1)[3] ^= 1 << 19
    return bits.view(torch.float32)


def base_weight(name: str) -> torch.Tensor:
    weight: torch.Tensor = READER.from_pretrained(DEMO_FOLDER, dtype=torch.float32).state_dict()[name]
    return weight.clone()


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def processed(export: Path, old: str, new: str) -> None:
    edited(export / "processor_config.json", old, new)


def recoloured(export: Path) -> None:
    path = export / "processor_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["image_processor"]["image_mean"] = [0.4, 0.4, 0.4]
    path.write_text(json.dumps(config), encoding="utf-8")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


# fmt: off
DAMAGE: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a missing shard": (lambda export: first_shard(export).unlink(), "model-00001-of-"),
    "a truncated shard": (lambda export: truncated(first_shard(export)), "model-00001-of-.*damaged"),
    "no tokenizer": (lambda export: (export / "tokenizer.json").unlink(), "tokenizer.json: there is no such file"),
    "no generation settings": (lambda export: (export / "generation_config.json").unlink(), "generation_config.json"),
    "no template": (lambda export: (export / "chat_template.jinja").unlink(), "chat_template.jinja: there is no"),
    "a pickle": (lambda export: (export / "optimizer.pt").write_bytes(b"pickled"), "optimizer.pt: it is no file of a"),
    "code": (lambda export: (export / "modeling.py").write_text("pass"), "modeling.py: it is no file of a model"),
    "a link": (lambda export: (export / "notes.md").symlink_to("/etc/hostname"), "notes.md: it is a link"),
    "another type": (lambda export: changed(export, NORM, lambda old: old.bfloat16()),
                     f"{NORM} is of bfloat16, and not of float32"),
    "another type than config.json says": (
        lambda export: edited(export / "config.json", '"dtype": "float32"', '"dtype": "bfloat16"'),
        "is of float32, and not of bfloat16"),
    "another way of answering": (lambda export: edited(export / "generation_config.json", '"top_k": 20', '"top_k": 7'),
                                 "generation_config.json: /top_k is 7, and was "),
    "another budget for films": (
        lambda export: edited(export / "video_preprocessor_config.json", '"longest_edge": ', '"longest_edge": 1'),
        "video_preprocessor_config.json: /size/longest_edge is 1"),
    "another budget for older programs": (
        lambda export: edited(export / "preprocessor_config.json", '"longest_edge": ', '"longest_edge": 1'),
        "preprocessor_config.json: /size/longest_edge is 1"),
    "a missing tensor": (lambda export: changed(export, SEES, lambda _: None), SEES),
    "another shape": (lambda export: changed(export, NORM, lambda old: old[:-1].clone()), NORM),
    "another value": (lambda export: edited(export / "config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'),
                      "/text_config/rms_norm_eps is 1e-05, and was 1e-06"),
    "code by name": (lambda export: edited(export / "generation_config.json", "{", '{"auto_map": {"A": "m.M"},'),
                     "auto_map asks for code"),
    "a flipped bit of what is not changed": (lambda export: changed(export, NORM, flipped),
                                             f"1 of the 128 numbers of {NORM} are not those"),
    "a flipped bit of what is changed": (lambda export: changed(export, LAYER, flipped), f"1 of the .* of {LAYER}"),
    "an adapter that is not merged": (lambda export: changed(export, LAYER, lambda _: base_weight(LAYER)),
                                      f"numbers of {LAYER} are not those"),
    "a number that is none": (lambda export: changed(export, LAYER, lambda old: old * float("nan")), LAYER),
}
# fmt: on


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_named_though_the_sums_were_made_anew(
    made: Mapping[str, Path], export: Path, questions: list[Question], tmp_path: Path, kind: str
) -> None:
    damage, told = DAMAGE[kind]
    damage(export)
    write_sums(export)

    with pytest.raises(VerificationFailed, match=told) as refused:
        looked_at(export, made["adapter"], questions, tmp_path / "work")

    assert all(complaint.fix for complaint in refused.value.complaints)


def test_one_flipped_bit_of_any_file_is_found_by_its_sum(
    made: Mapping[str, Path], export: Path, questions: list[Question], tmp_path: Path
) -> None:
    for path in (first_shard(export), export / "README.md"):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)

    with pytest.raises(VerificationFailed) as refused:
        looked_at(export, made["adapter"], questions, tmp_path / "work")

    assert [complaint.where for complaint in refused.value.complaints] == [
        "export/README.md", f"export/{first_shard(export).name}",
    ]  # fmt: skip


def test_files_that_the_sums_do_not_name_or_that_are_gone_are_found(
    made: Mapping[str, Path], export: Path, questions: list[Question], tmp_path: Path
) -> None:
    (export / "notes.md").write_text("mine")
    (export / "README.md").unlink()

    with pytest.raises(VerificationFailed, match=r"notes\.md: SHA256SUMS does not name it") as refused:
        looked_at(export, made["adapter"], questions, tmp_path / "work")

    assert "export/README.md: there is no such file, and SHA256SUMS names it" in str(refused.value)


def test_another_models_weights_are_found(
    made: Mapping[str, Path], export: Path, questions: list[Question], tmp_path: Path
) -> None:
    for path in export.glob("model-*.safetensors"):
        tensors = {name: torch.randn_like(own) for name, own in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    write_sums(export)

    with pytest.raises(VerificationFailed, match="are not those of the model") as refused:
        looked_at(export, made["adapter"], questions, tmp_path / "work")

    assert refused.value.complaints[-1].where == "and"  # twenty are named, and the others counted
    assert len(refused.value.complaints) == 21


# fmt: off
READ_OTHERWISE: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "a changed template": (lambda export: edited(export / "chat_template.jinja", "<|im_start|>", "<|im_start|>\n"),
                           r"0000.png: the question becomes \d+ tokens"),
    "a changed pixel budget": (
        lambda export: processed(export, f'"longest_edge": {MADE.max_pixels}', '"longest_edge": 4096'),
        r"0000.png: the (picture|question) becomes \d+ (patches|tokens)"),
    "other colours": (recoloured, "0000.png: the picture becomes other numbers"),
}
# fmt: on


@pytest.mark.parametrize("kind", READ_OTHERWISE)
def test_what_reads_a_question_otherwise_is_found(
    made: Mapping[str, Path], export: Path, questions: list[Question], tmp_path: Path, kind: str
) -> None:
    damage, told = READ_OTHERWISE[kind]
    damage(export)
    write_sums(export)

    with pytest.raises(VerificationFailed, match=told):
        looked_at(export, made["adapter"], questions[:1], tmp_path / "work")


@pytest.mark.parametrize("wanted", ["bf16", "base", "int8"])
def test_weights_of_another_type_than_was_asked_for_are_found(
    made: Mapping[str, Path], questions: list[Question], tmp_path: Path, wanted: str
) -> None:
    with pytest.raises(VerificationFailed, match=r"is of float32, and not of bfloat16|are whole, and not int8"):
        looked_at(made["export"], made["adapter"], questions, tmp_path / "work", dtype=wanted)


def test_a_config_that_tells_of_another_type_than_the_weights_have_is_found(export: Path) -> None:
    edited(export / "config.json", '"dtype": "float32"', '"dtype": "bfloat16"')

    [complaint] = wrong_dtypes(export, DEMO_FOLDER, "fp32")

    assert "config.json: it says bfloat16, and no tensor is of that" in str(complaint)


def test_a_base_of_several_types_leaves_as_it_is_and_is_proved_so(questions: list[Question], tmp_path: Path) -> None:
    # given a base whose config.json tells of one type, and whose norm is of another
    base = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    save_file({**tensors, NORM: tensors[NORM].float()}, base / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((base / "config.json").read_text())["dtype"] == "bfloat16"
    # when it leaves
    merged = merge(base, None, tmp_path / "export", Merging(), told=lambda *_: None, check=lambda: None)
    complete(base, None, tmp_path / "export", merged, named="demo")
    # then each tensor has its own type, and that is right whoever asks
    assert load_file(tmp_path / "export" / "model.safetensors")[NORM].dtype == torch.float32
    for number, wanted in enumerate(("base", None)):
        assert list(wrong_dtypes(tmp_path / "export", base, wanted)) == []
        assert list(wrong_dtypes(tmp_path / "export", DEMO_FOLDER, wanted)), number
    assert looked_at(tmp_path / "export", None, questions[:1], tmp_path / "work", base).dtype == "mixed"


def test_where_nobody_answered_a_box_the_report_says_so(made: Mapping[str, Path], questions: list[Question]) -> None:
    without = [Answered(torch.arange(3), torch.zeros(4, 2), torch.tensor([[0.0, 10.0, 5.0]]), "nothing")]
    judged = judge(questions[:1], without, without, BOUNDS["bf16"])

    told = {right.name: right.detail for right in rights_of(made["export"], "fp32", judged, questions[:1])}

    assert judged.mean_iou is None
    assert told["boxes"].startswith("no boxes were answered to 1 questions")
