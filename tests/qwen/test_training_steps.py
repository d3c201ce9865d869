"""A step is the same however it is cut into pieces, and a checkpoint that does not fit on the disk leaves nothing."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from vlyard.demo.shapes import draw_splits
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions
from vlyard.jobs.training import TrainingSpec
from workers.qwen.training.learning import learn
from workers.qwen.training.plan import Listener, Plan, Step

SMALL: dict[str, Any] = {
    "max_steps": 3, "micro_batch": 4, "accumulation": 1, "gradient_checkpointing": False, "warmup": 0, "held_out": None,
    "parts": ("language", "merger", "vision"), "learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of different lengths."""
    folder = tmp_path_factory.mktemp("data")
    draw_splits(folder / "drawn", 9, 1, 3, side=64)
    convert(folder / "drawn", folder / "made", ConversionOptions(), lambda _, __: None)
    return folder / "made"


def unheard(*_: object) -> None:
    """Nobody wants to know."""


@pytest.fixture
def run(untrained: Path, data: Path, tmp_path: Path) -> Callable[..., list[float]]:
    def run(
        *, name: str = "run", saved: Callable[..., None] = unheard, halved: int = 0, **more: Any
    ) -> list[float]:  # fmt: skip
        steps: list[Step] = []
        (tmp_path / name).mkdir()
        spec = TrainingSpec.model_validate({"dataset": uuid4(), **SMALL, **more})
        plan = Plan(spec=spec, base=untrained, dataset=data, output=tmp_path / name, halved=halved)
        learn(plan, Listener(steps.append, saved, unheard, lambda: False))
        return [step.loss for step in steps]

    return run


@pytest.mark.parametrize("method", ["lora", "full"])
def test_every_learned_token_of_a_step_weighs_the_same_in_whatever_pieces_it_is_computed(
    run: Callable[..., list[float]], method: str
) -> None:
    whole = run(name="whole", method=method)

    halves = run(name="halves", method=method, halved=1)

    assert halves == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_full_disk_is_named_leaves_no_half_checkpoint_and_keeps_the_one_before(
    run: Callable[..., list[float]], tmp_path: Path, file: str
) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    saved = []

    def fill(_: Path, step: int) -> None:
        saved.append(step)
        (checkpoints / "checkpoint-2").mkdir()
        (checkpoints / "checkpoint-2" / file).symlink_to("/dev/full")

    with pytest.raises(OSError, match="the disk is full") as caught:
        run(checkpoint_steps=1, saved=fill)

    assert caught.value.errno == errno.ENOSPC
    assert saved == [1]
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("precision", [None, "bf16", "pure_bf16"])
def test_the_recipe_has_the_precision_that_was_computed_in(
    run: Callable[..., list[float]], tmp_path: Path, precision: str | None
) -> None:
    run(precision=precision, max_steps=1)

    recipe = yaml.safe_load((tmp_path / "run" / "recipe" / "train.yaml").read_text())
    assert [name for name in ("pure_bf16", "bf16", "fp16") if recipe[name]] == ([precision] if precision else [])


_SHORT = """
import resource, sys
from pathlib import Path
from uuid import uuid4
import torch
from vlyard.errors import OutOfMemory
from vlyard.jobs.training import TrainingSpec
from workers.qwen.training.learning import learn
from workers.qwen.training.plan import Listener, Plan

base, data, output = map(Path, sys.argv[1:])
torch.set_num_threads(1)
spec = TrainingSpec(
    dataset=uuid4(), method="full", micro_batch=8, accumulation=1, max_steps=1, held_out=None, max_pixels=4_000_000,
    min_pixels=2_000_000, gradient_checkpointing=False, max_tokens=10_000,
)
quiet = Listener(lambda step: None, lambda folder, step: None, lambda line: None, lambda: False)
learn(Plan(spec=spec.model_copy(update={"min_pixels": None, "max_pixels": None}), base=base, dataset=data,
           output=output), quiet)  # everything that is loaded once is there
output.joinpath("again").mkdir()
has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (has + 300 * 2**20,) * 2)
try:
    learn(Plan(spec=spec, base=base, dataset=data, output=output / "again"), quiet)
except OutOfMemory as error:
    print("told:", error)
"""


def test_memory_that_runs_out_is_told_as_that(untrained: Path, data: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", _SHORT, str(untrained), str(data), str(tmp_path)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert ran.stdout.startswith("told: memory ran out"), ran.stdout + ran.stderr
