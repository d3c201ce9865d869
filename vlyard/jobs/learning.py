"""What a training and its check have in common: the data, the model that is to learn it, and how it is shown to it."""

from typing import Annotated, Literal, Self, TypeAlias
from uuid import UUID

from pydantic import Field, model_validator

from vlyard.jobs.generation import ModelId, Text, Word
from vlyard.jobs.spec import ArtefactId, Spec

DEFAULT_MAX_TOKENS = 8_192

Method: TypeAlias = Literal["full", "lora", "qlora"]
Part: TypeAlias = Literal["language", "merger", "vision"]
Parts: TypeAlias = Annotated[
    tuple[Part, ...], Field(min_length=1, description="The parts that learn; the others are frozen.")
]
Precision: TypeAlias = Literal["pure_bf16", "bf16", "fp16", "fp32"]
# As transformers names them: those of torch, and, on GPUs, those of bitsandbytes. Others need packages of their own.
Optimizer: TypeAlias = Literal[
    "adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop",
    "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit",
    "ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit",
    "lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit",
    "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
]  # fmt: skip
Schedule: TypeAlias = Literal[
    "linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "polynomial",
    "constant", "constant_with_warmup", "inverse_sqrt", "warmup_stable_decay", "reduce_lr_on_plateau", "greedy",
]  # fmt: skip
Sharding: TypeAlias = Literal["ddp", "fsdp"]
Rank: TypeAlias = Annotated[int, Field(ge=1, le=1_024, description="The rank of the adapter's matrices.")]


class LearningSpec(Spec):
    """Which data, for which model, and what the model sees of it."""

    dataset: ArtefactId = Field(
        description="What a conversion made, or data in one of those forms: a directory, or a zip or tar of one, with "
        "`dataset_info.json`, or with JSON or JSONL files of conversations."
    )
    splits: tuple[Word, ...] = Field(
        ("train",), max_length=20, description="What is learned. Data that has no splits is learned whole."
    )
    held_out: Word | None = Field(
        "val", description="The split that is not learned, and tells how the model does on it, where there is one."
    )
    limit: int | None = Field(None, ge=1, description="Only so many samples, the first ones.")
    model: ModelId = Field(
        "demo",
        description="The base: `demo`, `untrained`, a folder's name in the worker's model directory, "
        "`hub:<owner>/<name>`, `<team>/<name>:<version>`, or a checkpoint as an artefact.",
    )
    answers: Literal["any", "boxes", "objects", "points"] = Field(
        "any",
        description="The form that every answer must have: Qwen3-VL's list of boxes, the `objects` wrapper, or points; "
        "any: whatever the data has.",
    )
    system: Text | None = Field(None, description="A system message, before every conversation that has none.")
    chat_template: str | None = Field(
        None, min_length=1, max_length=100_000, description="Jinja; default: the model's own."
    )
    min_pixels: int | None = Field(None, ge=1, le=2**28, description="Smaller pictures are enlarged to so many pixels.")
    max_pixels: int | None = Field(
        None, ge=1, le=2**28, description="Larger ones are shrunk; default: the model's own. Kept with the result."
    )
    max_tokens: int = Field(
        DEFAULT_MAX_TOKENS,
        ge=16,
        le=2**20,
        description="The longest sample, question, pictures and answer together. None is ever cut.",
    )
    policy: Literal["refuse", "quarantine"] = Field(
        "refuse",
        description="What to do where a sample cannot be learned, because it is too long, its picture is missing, or "
        "its form is wrong: refuse the whole training before it begins, or leave the sample out and list it.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError("min_pixels is larger than max_pixels")
        if self.held_out is not None and self.held_out in self.splits:
            raise ValueError(f"{self.held_out!r} is to be learned and held out: choose")
        return self

    @property
    def measures(self) -> bool:
        """Whether it cannot do without held-out samples."""
        return False

    def inputs(self) -> tuple[UUID, ...]:
        weights = (self.model,) if isinstance(self.model, UUID) else ()
        return tuple(dict.fromkeys((self.dataset, *weights)))

    def trees(self) -> tuple[UUID, ...]:
        return self.inputs()
