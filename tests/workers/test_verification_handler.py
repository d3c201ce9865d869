"""A verification proves an export beside what it was made of, and says with all names where it is not that."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from control.settings import Settings
from tests.workers.desks import Desk
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import InvalidInput, VerificationFailed
from vlyard.formats.archive import pack
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.export import ExportSpec
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.verification import VerificationSpec
from workers.export import export
from workers.qwen.loading import DEMO_FOLDER
from workers.trees import fetch_tree
from workers.verification import run, verification

torch.set_num_threads(1)
READER: Any = AutoModelForImageTextToText


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


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


def test_what_is_no_export_or_no_model_is_refused(desk: Desk, settings: Settings, written: Path) -> None:
    other = VerificationSpec(export=desk.lay_down(b"no archive", "notes.zip"), model="demo")
    with pytest.raises(InvalidInput, match="notes"):
        verification(other, desk.context(), settings)

    nameless = VerificationSpec(export=desk.lay_down(written, "model"), model="nothing")
    with pytest.raises(InvalidInput, match="/spec/model"):
        verification(nameless, desk.context(), settings)
