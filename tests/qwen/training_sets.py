"""Small datasets of questions and answers, made for one test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from vlyard.demo.shapes import draw_scenes
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.learning import LearningSpec
from vlyard.jobs.training import TrainingSpec
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
