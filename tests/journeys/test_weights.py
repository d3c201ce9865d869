"""Weights out and in again: a tuned model is exported, asked by its new name, and comes back as an import."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.journeys.conftest import Running
from vlyard import (
    Client,
    ConversionSpec,
    ExportResult,
    ExportSpec,
    ImportResult,
    ImportSpec,
    InferenceResult,
    InferenceSpec,
    JobFailed,
    TrainingSpec,
)
from vlyard.demo.shapes import draw_splits
from vlyard.formats.archive import pack

PATIENCE = 300


def ask(client: Client, picture: UUID, model: Any) -> str:
    spec = InferenceSpec(model=model, image=picture, prompt="What is in this picture?", do_sample=False)
    answer = client.run(spec, timeout=PATIENCE)
    assert isinstance(answer, InferenceResult)
    return answer.text


def test_a_tuned_model_leaves_whole_and_comes_back_with_the_same_answers(running: Running, tmp_path: Path) -> None:
    client = running.client
    # given an adapter that learned a little
    draw_splits(tmp_path / "set", 8, 2, 5, side=128)
    pack(tmp_path / "set", tmp_path / "set.zip")
    source = client.upload(tmp_path / "set.zip").id
    dataset = client.run(ConversionSpec(source=source), timeout=PATIENCE).artefacts["dataset"]
    short: dict[str, Any] = {"max_steps": 2, "micro_batch": 4, "accumulation": 1, "gradient_checkpointing": False}
    client.run(TrainingSpec(dataset=dataset, name="small", learning_rate=1e-4, **short), timeout=PATIENCE)
    picture = client.upload(next((tmp_path / "set" / "val" / "images").iterdir())).id
    answer = ask(client, picture, "vision/small:1")
    # when it is exported, then the export has a name, and answers the same
    left = client.run(ExportSpec(model="vision/small:1", name="whole", dtype="fp32"), timeout=PATIENCE)
    assert isinstance(left, ExportResult)
    assert (left.model, left.merged, left.dtype) == ("vision/whole:1", True, "fp32")
    assert {check.name for check in left.verification} >= {"files", "weights", "processing", "logits"}
    assert ask(client, picture, "vision/whole:1") == answer
    # when it comes back, then it does as well
    again = client.run(ImportSpec(source=left.artefacts["model"], name="returned"), timeout=PATIENCE)
    assert isinstance(again, ImportResult)
    assert (again.model, again.parameters) == ("vision/returned:1", left.parameters)
    assert ask(client, picture, "vision/returned:1") == answer
    assert {"vision/small:1", "vision/whole:1", "vision/returned:1"} <= {model.id for model in client.models()}


def test_what_is_no_model_does_not_come_in(running: Running, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "pytorch_model.bin").write_bytes(b"pickled")
    tree = running.client.upload_tree(tmp_path / "weights").id

    with pytest.raises(JobFailed, match=r"pytorch_model\.bin") as refused:
        running.client.run(ImportSpec(source=tree, name="never"), timeout=PATIENCE)

    assert "Traceback" not in str(refused.value)
