"""What is to be learned, on this machine's disk, and whom it is told. It knows no model.

A plan is JSON, because every process that learns reads it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vlyard.jobs.learning import Precision
from vlyard.jobs.training import Scores, TrainingSpec


class Plan(BaseModel):
    """Everything that decides what is learned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: TrainingSpec  # `model` and `dataset` are not looked at: the folders stand for them
    base: Path  # a whole checkpoint
    known_as: str | None = None  # what others know the base by, `owner/name` of a hub; else its folder's name
    dataset: Path  # unpacked
    output: Path  # where `model` and the checkpoints are written
    resume: Path | None = None  # a checkpoint's folder, as it was told to `saved`
    checkpoints: bool = True  # whether there are any: without them a training that is stopped begins anew
    halved: int = 0  # how many times memory ran out before: micro-batches are halved so often, accumulation doubled


class Step(BaseModel):
    """How the learning goes, told once a step at most."""

    model_config = ConfigDict(frozen=True)

    step: int
    steps: int  # in the end
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float | None = None  # before it was scaled down; None: in fp16 it was too large, and nothing was learned
    samples_per_second: float
    tokens_per_second: float
    memory_bytes: int
    held_out_loss: float | None = None  # where this step was measured
    scores: Scores | None = None


@dataclass(frozen=True)
class Listener:
    """Who is told, in the process that leads."""

    step: Callable[[Step], None]
    saved: Callable[[Path, int], None]  # a checkpoint's folder is whole, and its step; it may go once this returns
    say: Callable[[str], None]  # a line for people
    stopping: Callable[[], bool]  # whether to stop after this step, with a checkpoint


@dataclass(frozen=True)
class Learned:
    """What became of it. The model is in `plan.output / "model"`: an adapter as PEFT saves it, or a checkpoint.

    One that got lost has a model where there was a good checkpoint, and tells of that.
    """

    stopped: bool  # because `stopping` said so: there is a checkpoint, and no model
    lost: str | None  # what is no number any more, and since when: the model is that of the last good checkpoint
    samples: int
    held_out: int
    unusable: Path | None  # JSON lines of the samples that were left out: `sample`, `code`, `message`
    unusable_count: int
    steps: int
    epochs: float
    loss: float  # the mean over the last tenth of the steps
    held_out_loss: float | None
    scores: Scores | None
    stopped_early: bool
    best_step: int | None  # whose weights the model has, where it was to stop early
    resumed_at: int | None
    micro_batch: int
    accumulation: int
    parameters: int
    trained_parameters: int
    min_pixels: int  # the budget that pictures were brought into
    max_pixels: int
    prompt: str | None  # the first sample's question
    template_sha256: str  # of the chat template that was used, whoever's it is
    precision: Precision
    device: str
    seconds: float
    samples_per_second: float
    tokens_per_second: float
    peak_bytes: int
