"""Tokenising everything that a training would learn, on a CPU, before it costs time on a GPU."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vlyard.jobs.generation import LARGEST_MODEL_IN_GPUS, Word
from vlyard.jobs.learning import LearningSpec, Method, Optimizer, Parts, Precision, Rank, Sharding
from vlyard.jobs.spec import Result

SURVEY, PREVIEW, SHEET, UNUSABLE = "survey", "preview", "sheet", "unusable"  # the outputs' names


class TrainingCheckSpec(LearningSpec):
    kind: Literal["training_check"] = "training_check"
    method: Method = Field("lora", description="What memory and time are estimated for.")
    parts: Parts = ("language",)
    lora_rank: Rank = 16
    lora_modules: tuple[Word, ...] = Field(
        (), max_length=50, description="Linear layers that get an adapter; the check fails where there are none such."
    )
    precision: Precision | None = Field(None, description="What memory is estimated for; default: pure_bf16.")
    gradient_checkpointing: bool = Field(True, description="Compute activations twice rather than keep them.")
    optimizer: Optimizer = Field("adamw_torch_fused", description="Whose states memory is estimated for.")
    gpus: int = Field(1, ge=1, le=LARGEST_MODEL_IN_GPUS, description="GPUs that share the work.")
    sharding: Sharding = Field("ddp", description="Every GPU has the whole model, or a part of it.")
    epochs: float = Field(3, gt=0, le=1_000, description="What the time is estimated for.")
    max_steps: int | None = Field(None, ge=1, description="Instead of epochs: so many steps.")
    micro_batch: int = Field(2, ge=1, le=1_024, description="Samples that one GPU computes at a time.")
    accumulation: int = Field(4, ge=1, le=4_096, description="Micro-batches whose gradients make one step.")
    evaluate: Literal["end", "checkpoint"] | None = Field(
        None, description="That held-out questions will be asked: the check fails where nothing is held out."
    )
    stop_after: int | None = Field(
        None, ge=1, description="That held-out samples will say when to stop: it fails where there are none."
    )

    @property
    def measures(self) -> bool:
        """Whether it cannot do without held-out samples."""
        return self.evaluate is not None or self.stop_after is not None


class Lengths(BaseModel):
    """How long samples are, in tokens."""

    model_config = ConfigDict(frozen=True)

    smallest: int
    median: int
    p95: int
    largest: int
    edges: tuple[int, ...] = Field(description="The bins' edges, one more than there are bins.")
    counts: tuple[int, ...] = Field(description="Samples in each bin, from its edge up to the next one.")


class TrainingCheckResult(Result):
    samples: int = Field(description="Samples that would be learned.")
    held_out: int = Field(description="Samples that are held out.")
    unusable: int = Field(description="Samples that cannot be learned; each has a line in `unusable`.")
    too_long: int = Field(description="Those of them that have more than `max_tokens`.")
    tokens: int = Field(description="Tokens of all samples that would be learned.")
    answer_tokens: int = Field(description="Those that the loss is taken on: the assistant's.")
    picture_tokens: int = Field(description="Those that stand for pictures.")
    lengths: Lengths
    prompt: str | None = Field(None, description="The first sample's question: what the model will know to answer.")
    warnings: tuple[str, ...] = Field(
        (), description="What can be learned and is probably not meant, such as boxes that look like pixels."
    )
    template: str = Field(description="Where the chat template comes from: `model` or `specification`.")
    min_pixels: int = Field(description="The pixel budget that will be used, area in pixels.")
    max_pixels: int
    parameters: int = Field(description="Of the model.")
    weight_bytes: int = Field(description="Estimate for each GPU: weights, gradients and optimiser states.")
    activation_bytes: int = Field(description="Estimate for each GPU: what the longest samples need while learned.")
    flops: float = Field(description="Estimate of the whole training, floating-point operations.")
    seconds: dict[str, float] = Field(
        description="Estimate of the whole training on `gpus` cards of each kind, at 35 % of their peak in bf16."
    )
