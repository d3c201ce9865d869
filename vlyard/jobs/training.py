"""Tuning a Qwen3-VL on questions and answers about pictures, with LoRA or whole."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlyard.jobs.conversion import NAME_PATTERN
from vlyard.jobs.generation import LARGEST_MODEL_IN_GPUS, Word
from vlyard.jobs.learning import LearningSpec, Method, Optimizer, Parts, Precision, Rank, Schedule, Sharding
from vlyard.jobs.spec import ArtefactId, Result

MODEL, METRICS, CURVE, RECIPE, UNUSABLE = "model", "metrics", "curve", "recipe", "unusable"  # the outputs' names

_MEASURING = frozenset({"reduce_lr_on_plateau", "greedy"})  # schedules that follow the loss on held-out samples

Fraction = Annotated[float, Field(ge=0, le=1)]


class TrainingSpec(LearningSpec):
    kind: Literal["training"] = "training"
    checked: ArtefactId | None = Field(
        None, description="The `survey` of a check: the training waits for it, and does not begin where it failed."
    )
    name: str = Field(
        "tuned", pattern=NAME_PATTERN, description="What the model is called: it becomes `<team>/<name>:<version>`."
    )

    method: Method = Field(
        "lora",
        description="Learn all weights, an adapter, or an adapter on a base in 4 bits, for which a GPU is needed.",
    )
    parts: Parts = ("language",)
    lora_rank: Rank = 16
    lora_alpha: float = Field(32, gt=0, le=4_096, description="The adapter's scale is this over its rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Of the adapter's input.")
    lora_modules: tuple[Word, ...] = Field(
        (), max_length=50, description="Linear layers that get an adapter, such as q_proj; none: all of the parts."
    )
    rslora: bool = Field(False, description="Scale by the square root of the rank (rank-stabilised LoRA).")
    dora: bool = Field(False, description="Learn magnitudes apart from directions (DoRA).")

    precision: Precision | None = Field(
        None,
        description="Everything in bf16; weights in fp32 and computing in bf16 or fp16; everything in fp32. Default: "
        "pure_bf16 on a GPU, fp32 on a CPU.",
    )
    gradient_checkpointing: bool = Field(True, description="Compute activations twice rather than keep them.")
    epochs: float = Field(3, gt=0, le=1_000, description="How many times all samples are learned.")
    max_steps: int | None = Field(None, ge=1, description="Instead of epochs: so many steps.")
    micro_batch: int = Field(2, ge=1, le=1_024, description="Samples that one GPU computes at a time.")
    accumulation: int = Field(4, ge=1, le=4_096, description="Micro-batches whose gradients make one step.")
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="The highest one. Default: 1e-4 for adapters, 1e-5 for all weights."
    )
    schedule: Schedule = Field(
        "cosine",
        description="How the learning rate goes down, as transformers names it; `greedy` and `reduce_lr_on_plateau` "
        "follow the loss on held-out samples.",
    )
    warmup: Fraction = Field(0.03, description="The part of the steps in which the learning rate rises.")
    decay: Fraction = Field(0.2, description="The last part of the steps, for `warmup_stable_decay`.")
    lowest: Fraction = Field(
        0.1, description="The part of the highest rate below which `greedy` and those with `min_lr` do not go."
    )
    optimizer: Optimizer = Field(
        "adamw_torch_fused",
        description="As transformers names it; those of bitsandbytes, such as all in 8 bits, need a GPU.",
    )
    weight_decay: float = Field(0.0, ge=0, le=1)
    beta2: float = Field(0.999, gt=0, lt=1, description="Adam's second decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are scaled down to this norm; 0: never.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the order of samples, of dropout and of new weights.")

    gpus: int = Field(1, ge=1, le=LARGEST_MODEL_IN_GPUS, description="GPUs of one machine; processes, on a CPU.")
    sharding: Sharding = Field("ddp", description="Every GPU has the whole model, or a part of it.")

    checkpoint_steps: int = Field(200, ge=1, description="Steps between two checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, le=100, description="How many of the latest are kept.")
    evaluate: Literal["end", "checkpoint"] | None = Field(
        None, description="Have the model answer held-out questions, at the end or at every checkpoint, and score it."
    )
    evaluate_samples: int = Field(200, ge=1, description="How many held-out questions that takes.")
    stop_after: int | None = Field(
        None, ge=1, description="Stop after so many checkpoints at which `stop_on` was no better than before."
    )
    stop_on: Literal["loss", "f1"] = Field(
        "loss", description="What must get better: the loss on held-out samples, or the F1 that `evaluate` tells."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.stop_after is not None and self.held_out is None:
            raise ValueError("stop_after needs held_out: a split to be measured on")
        if self.stop_after is not None and self.stop_on == "f1" and self.evaluate != "checkpoint":
            raise ValueError("stop_on f1 needs evaluate: checkpoint")
        if self.stop_after is not None and self.stop_on == "f1" and self.answers == "points":
            raise ValueError("stop_on f1 compares boxes, and answers are points: choose loss")
        if self.schedule in _MEASURING and self.held_out is None:
            raise ValueError(f"{self.schedule} needs held_out: a split to be measured on")
        if self.method == "qlora" and self.sharding == "fsdp" and self.gpus > 1:
            raise ValueError("fsdp does not share weights in 4 bits: choose ddp, or method lora")
        if self.evaluate is not None and self.held_out is None:
            raise ValueError("evaluate needs held_out: a split to be asked about")
        if self.method == "full" and (self.dora or self.rslora or self.lora_modules):
            raise ValueError("dora, rslora and lora_modules are for adapters: choose method lora")
        return self

    def inputs(self) -> tuple[UUID, ...]:
        return (*super().inputs(), *(() if self.checked is None else (self.checked,)))

    def trees(self) -> tuple[UUID, ...]:
        return super().inputs()

    @property
    def measures(self) -> bool:
        """Whether it cannot do without held-out samples."""
        return self.evaluate is not None or self.stop_after is not None or self.schedule in _MEASURING

    @property
    def highest_rate(self) -> float:
        """The learning rate at the top of its schedule."""
        return self.learning_rate or (1e-5 if self.method == "full" else 1e-4)


class Scores(BaseModel):
    """How well held-out questions were answered, by one-to-one matching at an IoU of 0.5. Numbers are 0..1."""

    model_config = ConfigDict(frozen=True)

    samples: int
    precision: float
    recall: float
    f1: float
    mean_iou: float = Field(description="Of the matched boxes and, with 0, of those that have no match.")
    parse_failures: float = Field(description="The part of the answers that could not be read.")


class TrainingResult(Result):
    model: str | None = Field(None, description="The version that it became, `<team>/<name>:<version>`.")
    base: str = Field(description="The model that learned.")
    method: str
    samples: int = Field(description="Samples that were learned.")
    held_out: int = Field(description="Samples that were held out.")
    unusable: int = Field(description="Samples that were left out; each has a line in `unusable`.")
    steps: int
    epochs: float
    loss: float = Field(description="The mean over the last tenth of the steps.")
    held_out_loss: float | None = Field(None, description="At the end; null where nothing was held out.")
    scores: Scores | None = Field(None, description="What `evaluate` told at the end.")
    stopped_early: bool
    best_step: int | None = Field(
        None, description="Under `stop_after`, the step whose weights the model has: where `stop_on` was best."
    )
    resumed_at: int | None = Field(None, description="The step of the checkpoint from which this attempt went on.")
    micro_batch: int = Field(description="As it was at the end: it is halved once where memory runs out.")
    accumulation: int
    parameters: int
    trained_parameters: int
    precision: Precision
    device: str
    seconds: float = Field(description="Of this attempt's steps.")
    samples_per_second: float
    tokens_per_second: float
    peak_bytes: int = Field(description="The most memory: of the GPU where there is one, else of the process.")
