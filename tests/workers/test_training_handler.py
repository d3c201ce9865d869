"""The training job's handler: what its model says of itself, and what stays where the numbers ended."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from control.settings import Settings
from tests.qwen.training_sets import LOST, converted, getting_lost
from tests.workers.desks import Desk
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import InvalidInput
from vlyard.files import Stored
from vlyard.jobs.training import Scores, TrainingSpec
from workers.context import Context
from workers.curves import draw_curves
from workers.qwen.loading import DEMO_FOLDER, load_model
from workers.qwen.manifest import Manifest, read_manifest
from workers.qwen.training.plan import Step
from workers.training import train

torch.set_num_threads(1)


def settings(desk: Desk) -> Settings:
    return Settings(models_dir=desk.folder / "models", cache_dir=desk.folder / "cache")


def fetched(context: Context, desk: Desk, tree: Stored) -> Path:
    """The folder of a tree that was stored."""
    desk.given[tree.id] = tree
    return desk.context().input(tree.id)


def test_a_model_says_how_it_came_to_be(desk: Desk, tmp_path: Path) -> None:
    # given data, and a training of two steps with everything said
    draw_dataset(tmp_path / "shapes", count=8, seed=9)
    dataset = desk.lay_down(converted(tmp_path / "shapes", tmp_path / "converted"), "converted")
    spec = TrainingSpec(
        dataset=dataset, max_steps=2, micro_batch=1, max_pixels=20_000, min_pixels=5_000, seed=7, lora_rank=2,
        system="Be brief.", gradient_checkpointing=False,
    )  # fmt: skip
    context = desk.context()
    # when it is done
    result = train(spec, context, settings(desk))
    # then the manifest beside the weights has all of it
    tree = next(file for file in context.published if file.id == result.artefacts["model"])
    said = read_manifest(fetched(context, desk, tree))
    template = load_model(DEMO_FOLDER).processor.chat_template
    metrics = result.model_dump(mode="json", exclude={"artefacts", "model"})
    assert said == Manifest(
        base="demo",
        method="lora",
        prompt=said.prompt if said else None,
        system="Be brief.",
        chat_template=None,
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest(),
        min_pixels=5_000,
        max_pixels=20_000,
        dataset=str(dataset),
        dataset_sha256=desk.given[dataset].sha256,
        spec=spec.model_dump(mode="json"),
        metrics=metrics,
        libraries={
            name: version(name) for name in ("accelerate", "peft", "tokenizers", "torch", "transformers", "vlyard")
        },
        seed=7,
    )
    assert said.prompt
    assert (metrics["steps"], metrics["samples"], metrics["held_out"]) == (2, 6, 2)
    assert metrics["loss"] > 0


def test_where_the_numbers_end_the_model_of_the_last_good_checkpoint_stays_and_is_named(desk: Desk) -> None:
    # given a base in the worker's folder that gets lost at the fifth step
    getting_lost(desk.folder / "models" / "fragile", desk.folder / "data")
    lost: dict[str, Any] = {**LOST, "model": "fragile", "dataset": desk.lay_down(desk.folder / "data", "data")}
    context = desk.context()
    # when it is trained with a checkpoint at every other step
    with pytest.raises(InvalidInput, match="at step 5 the loss is nan") as caught:
        train(TrainingSpec(**lost, checkpoint_steps=2), context, settings(desk))
    # then the error names the model of the fourth, which is there and can be asked
    [tree] = context.rescued
    assert f"the model of step 4, the last good checkpoint, is the artefact {tree.id}" in str(caught.value)
    model = fetched(context, desk, tree)
    assert json.loads((model / "vlyard.json").read_bytes())["metrics"]["steps"] == 4
    assert load_model(desk.folder / "models" / "fragile", model).notes == ()
    # and where there is none, nothing is named
    context = desk.context()
    with pytest.raises(InvalidInput, match="at step 5 the loss is nan") as caught:
        train(TrainingSpec(**lost, checkpoint_steps=9), context, settings(desk))
    assert (context.rescued, "artefact" in str(caught.value)) == ([], False)


def test_the_picture_of_a_training_has_its_held_out_loss_and_score(tmp_path: Path) -> None:
    def drawn(**measured: Any) -> bytes:
        told = {"steps": 2, "epoch": 1.0, "learning_rate": 1e-4, "samples_per_second": 1.0, "tokens_per_second": 9.0}
        steps = [Step(step=step, loss=1.0 / step, memory_bytes=1, **told, **measured) for step in (1, 2)]
        draw_curves(steps, tmp_path / "curve.png")
        return (tmp_path / "curve.png").read_bytes()

    scores = Scores(samples=4, precision=0.5, recall=0.5, f1=0.5, mean_iou=0.5, parse_failures=0)
    assert len({drawn(), drawn(held_out_loss=0.7), drawn(held_out_loss=0.7, scores=scores)}) == 3
