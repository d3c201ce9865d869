"""Small datasets of questions and answers, made for one test."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vlyard.demo.shapes import draw_scenes
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.learning import LearningSpec
from vlyard.jobs.training import TrainingSpec
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.training.collating import Item
from workers.qwen.training.preparing import Prepared


def converted(shapes: Path, folder: Path, **options: Any) -> Path:
    options = {"split": {"train": 0.75, "val": 0.25}, **options}
    convert(shapes, folder, ConversionOptions.model_validate(options), lambda *_: None)
    return folder


def spec(**more: Any) -> LearningSpec:
    return TrainingSpec.model_validate({"dataset": uuid4(), **more})


def dataset(folder: Path, rows: Sequence[object], name: str = "data.json") -> Path:
    """A folder with these samples, and with three pictures of different sizes."""
    folder.mkdir(exist_ok=True)
    for number, (size, scene) in enumerate(zip(((256, 256), (500, 90), (33, 70)), draw_scenes(5), strict=False)):
        scene.picture.resize(size).save(folder / f"{number}.png")
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return folder


def row(question: object = "<image>What?", answer: str = "A thing.", images: object = ("0.png",)) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "images": images}


def assert_same(one: Item, other: Item) -> None:
    for found, due in ((one.ids, other.ids), (one.labels, other.labels)):
        assert found.tolist() == due.tolist()
    assert one.pixels is not None
    assert other.pixels is not None
    assert torch.equal(one.pixels, other.pixels)


def reasons(prepared: Prepared) -> dict[str, str]:
    return {each.sample: each.code for each in prepared.unusable}


LOST: dict[str, Any] = {  # of a training of `getting_lost`: the white picture comes at its fifth step
    "held_out": None, "micro_batch": 1, "accumulation": 1, "seed": 3, "max_steps": 9, "learning_rate": 1e-2,
    "gradient_checkpointing": False,
}  # fmt: skip


def getting_lost(base: Path, data: Path) -> None:
    """A base whose numbers end at a picture that is all white, and nine pictures, one of which is."""
    first = torch.tensor([0])
    changed(base, "model.visual.patch_embed.proj.weight", lambda weight: weight.index_fill(0, first, 1e17))
    dataset(data, [row(images=[f"{number}.png"]) for number in range(9)])
    for number in range(9):
        Image.new("RGB", (64, 64), "white" if number == 0 else "gray").save(data / f"{number}.png")


def changed(folder: Path, name: str, how: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """The demo model with one of its tensors changed."""
    shutil.copytree(DEMO_FOLDER, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: how(weights[name].float())}, folder / "model.safetensors", {"format": "pt"})
    return folder
