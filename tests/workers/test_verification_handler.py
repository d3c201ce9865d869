"""A verification proves an export beside what it was made of, and says with all names where it is not that."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from control.settings import Settings
from tests.qwen.adapted import manifest
from tests.workers.desks import Desk
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import InvalidInput, VerificationFailed
from vlyard.formats.archive import pack
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.export import ExportResult, ExportSpec
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.verification import VerificationSpec
from workers.export import export
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.manifest import write_manifest
from workers.trees import fetch_tree
from workers.verification import origin_of, run, verification

torch.set_num_threads(1)
READER: Any = AutoModelForImageTextToText


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", models_dir=tmp_path / "models")


@pytest.fixture
def written(desk: Desk, settings: Settings, tmp_path: Path) -> Path:
    """The folder that an export of the demo model wrote."""
    context = desk.context()
    export(ExportSpec(model="demo", dtype="fp32", verify=False), context, settings)
    fetch_tree(desk.store, context.published[0], tmp_path / "written", lambda: None)
    return tmp_path / "written"


def test_the_row_of_the_kind_names_this_handler() -> None:
    assert KINDS["verification"].handler == f"{run.__module__}:{run.__name__}"


def test_an_export_in_an_archive_is_proved_with_the_questions_of_a_dataset(
    desk: Desk, settings: Settings, written: Path, tmp_path: Path
) -> None:
    # given an export in an archive, and a dataset with more pictures than are asked about
    pack(written, tmp_path / "written.zip")
    draw_dataset(tmp_path / "shapes", count=4, seed=9)
    convert(tmp_path / "shapes", tmp_path / "converted", ConversionOptions(), lambda *_: None)
    pack(tmp_path / "converted", tmp_path / "converted.zip")
    spec = VerificationSpec(
        export=desk.lay_down(tmp_path / "written.zip", "written.zip"),
        model="demo",
        dataset=desk.lay_down(tmp_path / "converted.zip", "converted.zip"),
        samples=2,
    )
    context = desk.context()
    # when it is verified
    result = verification(spec, context, settings)
    # then what was compared is told, and lies in the report
    assert (result.samples, result.same_answers, result.dtype) == (2, 2, "fp32")
    assert (result.boxes, result.mean_iou) == (2, 1.0)
    assert {check.name for check in result.checks} >= {"checksums", "weights", "processing", "logits", "boxes"}
    [report] = context.published
    told = json.loads((desk.folder / "store" / report.key).read_text())
    assert told == {**result.model_dump(mode="json"), "artefacts": {}}


def test_an_export_without_the_adapter_that_was_to_be_in_it_fails(
    desk: Desk, settings: Settings, written: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False)
    get_peft_model(READER.from_pretrained(DEMO_FOLDER), config).save_pretrained(str(tmp_path / "adapter"))
    adapter = desk.lay_down(tmp_path / "adapter", "adapter")
    spec = VerificationSpec(export=desk.lay_down(written, "model"), model="demo", adapter=adapter)

    with pytest.raises(VerificationFailed, match=r"numbers of model\.\S+\.v_proj\.weight are not those") as refused:
        verification(spec, desk.context(), settings)

    assert len(refused.value.complaints) == 3  # one for each layer, and no other tensor


def test_without_a_dataset_the_questions_are_about_what_was_held_out_of_what_the_model_learned_from(
    desk: Desk, settings: Settings, tmp_path: Path
) -> None:
    # given a model that says what it learned from
    draw_dataset(tmp_path / "shapes", count=4, seed=9)
    convert(
        tmp_path / "shapes",
        tmp_path / "converted",
        ConversionOptions(split={"train": 0.5, "val": 0.5}),
        lambda *_: None,
    )
    pack(tmp_path / "converted", tmp_path / "converted.zip")
    dataset = desk.lay_down(tmp_path / "converted.zip", "converted.zip")
    base = Path(shutil.copytree(DEMO_FOLDER, tmp_path / "base"))
    write_manifest(base, manifest(dataset=str(dataset), spec={"held_out": "val"}))
    model = desk.lay_down(base, "base")
    context = desk.context()
    export(ExportSpec(model=model, verify=False), context, settings)
    tree = context.published[0]
    desk.given[tree.id] = tree
    spec = VerificationSpec(export=tree.id, model=model, dtype="base")
    # when it is verified, then both are asked about two held-out pictures, and where these are gone, about drawn ones
    assert verification(spec, desk.context(), settings).samples == 2
    del desk.given[dataset]
    assert verification(spec, desk.context(), settings).samples == 8


def test_a_hubs_model_is_compared_in_the_revision_that_was_exported(desk: Desk, settings: Settings) -> None:
    told = ExportResult(
        base="hub:acme/tiny@c0ffee", merged=False, format="safetensors", dtype="bf16", parameters=1, bytes=1, files={}
    )
    export_id = desk.lay_down(DEMO_FOLDER, "model")
    summary = desk.lay_down(told.model_dump_json().encode(), "summary.json")
    context = desk.context()
    for model, meant in (("hub:acme/tiny", told.base), ("hub:acme/tiny@main", told.base), ("demo", "demo")):
        spec = VerificationSpec(export=export_id, model=model, summary=summary)
        assert origin_of(spec, context) == meant
    assert origin_of(VerificationSpec(export=export_id, model="hub:acme/tiny"), context) == "hub:acme/tiny"


def test_what_is_no_export_or_no_model_is_refused(desk: Desk, settings: Settings, written: Path) -> None:
    other = VerificationSpec(export=desk.lay_down(b"no archive", "notes.zip"), model="demo")
    with pytest.raises(InvalidInput, match="notes"):
        verification(other, desk.context(), settings)

    nameless = VerificationSpec(export=desk.lay_down(written, "model"), model="nothing")
    with pytest.raises(InvalidInput, match="/spec/model"):
        verification(nameless, desk.context(), settings)
