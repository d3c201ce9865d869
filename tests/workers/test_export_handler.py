"""An export takes a model out whole: what leaves loads by plain transformers, and is the model that was tuned."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText

from control.settings import Settings
from tests.house.tree import ROOT
from tests.workers.desks import Desk
from vlyard.errors import InvalidInput
from vlyard.jobs.export import ExportSpec
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.verification import Checked, VerificationResult
from workers.export import export, run
from workers.qwen.exporting.folder import read_sums
from workers.qwen.loading import DEMO_FOLDER
from workers.trees import fetch_tree

torch.set_num_threads(1)
REPORT = VerificationResult(
    checks=(Checked(name="logits", detail="they are the same"),),
    parameters=1,
    dtype="bf16",
    samples=8,
    logits_difference=0.0,
    same_answers=8,
    boxes=3,
    mean_iou=1.0,
)
READER: Any = AutoModelForImageTextToText


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "exports").mkdir()
    return Settings(export_dir=tmp_path / "exports", cache_dir=tmp_path / "cache", models_dir=tmp_path / "models")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of the demo model with random weights."""
    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(READER.from_pretrained(DEMO_FOLDER), config).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def test_the_row_of_the_kind_names_this_handler() -> None:
    assert KINDS["export"].handler == f"{run.__module__}:{run.__name__}"


def test_a_model_and_its_adapter_leave_as_one_model_that_plain_transformers_loads(
    desk: Desk, settings: Settings, adapter: Path, tmp_path: Path
) -> None:
    # given what an adapter makes of the demo model's answers
    ids = torch.arange(20).view(1, -1)
    tuned: Any = PeftModel.from_pretrained(READER.from_pretrained(DEMO_FOLDER, dtype=torch.float32), adapter)
    with torch.no_grad():
        expected = tuned(input_ids=ids).logits
        with tuned.disable_adapter():
            assert not torch.allclose(tuned(input_ids=ids).logits, expected, atol=0.1)
    # when both are exported
    spec = ExportSpec(
        model="demo", adapter=desk.lay_down(adapter, "adapter"), dtype="fp32", verify=False, folder="mine"
    )
    context = desk.context()
    result = export(spec, context, settings)
    # then what left is one model with the same answers, and every file is the one that is told
    [tree, summary] = context.published
    fetch_tree(desk.store, tree, tmp_path / "out", lambda: None)
    whole, report = READER.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        assert torch.allclose(whole(input_ids=ids).logits, expected, atol=1e-3)
    assert result.files == read_sums(tmp_path / "out")
    assert (result.merged, result.dtype, result.base, result.folder) == (True, "fp32", "demo", "mine")
    assert result.parameters == sum(each.numel() for each in whole.parameters())
    assert read_sums(tmp_path / "exports" / "mine") == result.files
    told = result.model_copy(update={"artefacts": {}, "folder": None})
    assert json.loads((desk.folder / "store" / summary.key).read_text()) == told.model_dump(mode="json")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID
from control.settings import Settings
from tests.workers.desks import Desk
from vlyard.jobs.export import ExportSpec
from workers.export import export

def tell(done, what):
    if (done or 0) > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

folder, job = Path(sys.argv[1]), UUID(sys.argv[2])
context = replace(Desk(folder).context(), job=job, tell=tell)
spec = ExportSpec(model="demo", dtype="fp32", verify=False, shard_bytes=1_000_000)
export(spec, context, Settings(cache_dir=Path(sys.argv[3])))
"""


def test_an_attempt_after_one_that_was_killed_goes_on_behind_its_finished_files(
    desk: Desk, settings: Settings, tmp_path: Path
) -> None:
    # given an attempt whose process is killed half-way, and what that export is when nobody disturbs it
    spec = ExportSpec(model="demo", dtype="fp32", verify=False, shard_bytes=1_000_000)
    context = replace(desk.context(), attempt=2)
    expected = export(spec, desk.context(), settings).files
    (tmp_path / "killed").mkdir()
    words = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(context.job), str(settings.cache_dir)]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    place = tmp_path / "cache" / "exports" / str(context.job) / "model"
    finished = {path.name: path.stat().st_mtime_ns for path in place.glob("*.safetensors")}
    assert 0 < len(finished) < len([name for name in expected if name.endswith(".safetensors")])
    # when there is another attempt
    times: dict[str, int] = {}

    def tell(_: float | None, what: str) -> None:
        if what == "storing the export":
            times.update({name: (place / name).stat().st_mtime_ns for name in finished})

    result = export(spec, replace(context, tell=tell), settings)
    # then it has written only what was missing, the export is the same, and nothing is left there
    assert times == finished
    assert result.files == expected
    assert not place.parent.exists()


def test_what_is_to_be_verified_is_brought_away_only_with_the_report_of_that(
    desk: Desk, settings: Settings, tmp_path: Path
) -> None:
    # given an export that is verified: where it is written, it goes nowhere
    wanted = ExportSpec(model="demo", folder="mine")
    context = desk.context()
    written = export(wanted, context, settings)
    tree, summary = context.published
    assert (written.folder, written.artefacts) == (None, {"model": tree.id, "summary": summary.id})
    assert list((tmp_path / "exports").iterdir()) == []
    # when it comes with the report of its verification
    report = desk.lay_down(REPORT.model_dump_json().encode(), "report.json")
    desk.given |= {each.id: each for each in context.published}
    stage = {"written": tree.id, "summary": summary.id, "verified": report}
    finished = export(wanted.model_copy(update=stage), desk.context(), settings)
    # then it is where it was to go, and says what was compared
    assert finished.verification == REPORT.checks
    assert (finished.folder, finished.files) == ("mine", read_sums(tmp_path / "exports" / "mine"))
    assert finished.artefacts == {"model": tree.id, "summary": summary.id, "report": report}
    # when that attempt was lost after its copy, then the next one is content with it
    again = replace(desk.context(), attempt=2)
    assert export(wanted.model_copy(update=stage), again, settings) == finished


def test_a_folder_that_is_there_already_is_refused_before_anything_is_written(
    desk: Desk, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "exports" / "mine").mkdir()
    context = desk.context()

    with pytest.raises(InvalidInput, match="/spec/folder: there is a folder 'mine' already"):
        export(ExportSpec(model="demo", verify=False, folder="mine"), context, settings)

    assert context.published == []


def test_what_is_no_model_is_refused_by_its_field(desk: Desk, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="/spec/model"):
        export(ExportSpec(model="nothing"), desk.context(), settings)
    with pytest.raises(InvalidInput, match="/spec/adapter"):
        export(ExportSpec(model="demo", adapter=uuid4()), desk.context(), settings)
