"""From labels to a tuned model that is asked: every job on the way, as its user runs it."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from PIL import Image

from tests.journeys.conftest import Running
from vlyard import (
    Client,
    ConversionSpec,
    EvaluationResult,
    EvaluationSpec,
    InferenceResult,
    InferenceSpec,
    InvalidInput,
    JobFailed,
    TrainingCheckResult,
    TrainingCheckSpec,
    TrainingResult,
    TrainingSpec,
)
from vlyard.demo.shapes import draw_splits
from vlyard.formats.archive import pack

PATIENCE = 300
VLYARD = str(Path(sys.executable).with_name("vlyard"))
FAST: dict[str, Any] = {"micro_batch": 4, "accumulation": 1, "gradient_checkpointing": False, "checkpoint_steps": 4}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with a split to learn and one to be measured on."""
    folder = tmp_path_factory.mktemp("shapes")
    draw_splits(folder / "set", 24, 8, 31, side=128)
    return folder / "set"


@pytest.fixture(scope="module")
def dataset(running: Running, shapes: Path) -> UUID:
    """The same, converted."""
    archive = shapes.with_suffix(".zip")
    pack(shapes, archive)
    made = running.client.run(ConversionSpec(source=running.client.upload(archive).id), timeout=PATIENCE)
    return made.artefacts["dataset"]


def fetched(client: Client, artefact: UUID, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return client.download(artefact, folder)


def test_labels_become_a_model_with_a_name_that_is_measured_and_asked(
    running: Running, shapes: Path, dataset: UUID, tmp_path: Path
) -> None:
    client = running.client
    # given data that was looked at first
    looked = client.run(TrainingCheckSpec(dataset=dataset), timeout=PATIENCE)
    assert isinstance(looked, TrainingCheckResult)
    assert (looked.samples, looked.held_out, looked.unusable) == (24, 8, 0)
    # when an adapter of the demo model learns it for a few steps
    spec = TrainingSpec(
        dataset=dataset, checked=looked.artefacts["survey"], name="found", max_steps=6, learning_rate=1e-4, **FAST
    )
    job = client.submit(spec)
    trained = client.result(client.wait(job.id, timeout=PATIENCE))
    # then it says how it went, step by step, and the model has a name
    assert isinstance(trained, TrainingResult)
    assert trained.model == "vision/found:1"
    assert (trained.samples, trained.held_out, trained.steps, trained.precision) == (24, 8, 6, "fp32")
    steps = [
        orjson.loads(line) for line in fetched(client, trained.artefacts["metrics"], tmp_path).read_bytes().splitlines()
    ]
    assert [step["step"] for step in steps] == list(range(1, 7))
    assert all(step["loss"] > 0 and step["grad_norm"] > 0 for step in steps)
    with Image.open(fetched(client, trained.artefacts["curve"], tmp_path)) as curve:
        assert curve.size == (1080, 600)
    assert any(event.type == "metrics" and event.data["loss"] > 0 for event in client.events(job.id))
    # and it is measured and asked by that name, and by the job that made it, with the same answers
    picture = client.upload(next((shapes / "val" / "images").iterdir())).id
    question: dict[str, Any] = {"image": picture, "prompt": "What is in this picture?", "do_sample": False}
    answers = [
        client.run(InferenceSpec(model=name, **question), timeout=PATIENCE)
        for name in ("vision/found:1", f"job:{job.id}/model")
    ]
    texts = {answer.text for answer in answers if isinstance(answer, InferenceResult)}
    assert len(texts) == 1
    measured = client.run(EvaluationSpec(dataset=dataset, splits=("val",), model="vision/found:1"), timeout=PATIENCE)
    assert isinstance(measured, EvaluationResult)
    assert measured.samples == 8
    assert measured.mean_iou.value > 0.5  # the demo model knew shapes before
    # and the next model of that name is the next version
    again = client.run(spec, timeout=PATIENCE)
    assert isinstance(again, TrainingResult)
    assert again.model == "vision/found:2"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "vision/never:1"}, "never"),
        ({"answers": "points", "max_tokens": 20}, "grounding.json: sample 1.*max_tokens|points"),
        ({"precision": "fp16"}, "/spec/precision: fp16 needs a GPU"),
    ],
)
def test_what_cannot_be_learned_is_told_before_a_step_is_made(
    running: Running, dataset: UUID, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises((JobFailed, InvalidInput), match=said) as refused:
        running.client.run(TrainingSpec.model_validate({"dataset": dataset, "max_steps": 2, **FAST, **fields}))
    assert "Traceback" not in str(refused.value)


def test_one_command_takes_labels_to_a_score_and_says_how_to_ask(
    running: Running, shapes: Path, own_environment: dict[str, str]
) -> None:
    # when somebody who has a folder of labels says `vlyard train`
    environment = {**own_environment, "VLYARD_URL": running.url, "VLYARD_API_KEY": running.system.key("vision")}
    words = ["train", str(shapes), "--name", "chain", "--max-steps", "1", "--micro-batch", "4", "--accumulation", "1"]
    ran = subprocess.run([VLYARD, *words], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    # then four jobs ran, and it says how well, and what to do next
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "over 8 held-out questions, of the split val" in ran.stdout
    assert [model.id for model in running.client.models() if model.name == "chain"] == ["vision/chain:1"]
    # and the line that it prints asks the model, as it stands but for the picture
    line = next(line for line in ran.stdout.splitlines() if line.startswith("  vlyard inference"))
    picture = next((shapes / "val" / "images").iterdir())
    _, *asking = [str(picture) if word == "PICTURE" else word for word in shlex.split(line)]
    assert asking[asking.index("--model") + 1] == "vision/chain:1"
    asked = subprocess.run([VLYARD, *asking], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    # and a folder without labels is refused in a line
    wrong = subprocess.run(
        [VLYARD, "train", str(shapes / "val" / "images"), "--max-steps", "1"],
        env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert wrong.returncode == 3
    assert "Traceback" not in wrong.stderr
