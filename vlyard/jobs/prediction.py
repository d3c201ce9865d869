"""Ask a model about every picture of a dataset, and keep the answers in one file.

A prediction in several shards is several jobs: the one that was asked for gathers, and waits for the others, each of
which answers every n-th sample. `control/sharding.py` makes them when it is submitted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from vlyard.jobs.generation import AnswerTokens, GenerationSpec
from vlyard.jobs.inference import ModelUsed
from vlyard.jobs.presets import NEW_TOKENS
from vlyard.jobs.spec import ArtefactId, Reference, Result, Spec

PREDICTIONS = "predictions"  # the output's name
MOST_SHARDS = 64


class PredictionSpec(GenerationSpec):
    kind: Literal["prediction"] = "prediction"
    dataset: ArtefactId = Field(
        description="What a conversion made, or pictures: a directory, or a zip or tar of one. A converted dataset "
        "brings its own questions; a `prompt` or `preset` replaces them, and each picture is then asked about once."
    )
    splits: tuple[str, ...] = Field((), max_length=20, description="Only these splits; default: all.")
    max_new_tokens: AnswerTokens = None
    limit: int | None = Field(None, ge=1, description="Only so many samples, the first ones.")
    shards: int = Field(1, ge=1, le=MOST_SHARDS, description="How many jobs share the work, on as many workers.")
    shard: int | None = Field(None, ge=0, lt=MOST_SHARDS, description="Only every n-th sample from this one on.")
    gathered: bool = Field(False, description="Set by VLyard: the shard's file goes to the job that gathers them.")
    parts: tuple[ArtefactId, ...] = Field((), max_length=MOST_SHARDS, description="Set by VLyard: what it gathers.")

    @model_validator(mode="after")
    def _in_its_place(self) -> Self:
        if self.shard is not None and self.shard >= self.shards:
            raise ValueError(f"shards are counted from 0, so the last of {self.shards} is {self.shards - 1}")
        return self

    @property
    def new_tokens(self) -> int:
        """How many tokens an answer may have; a dataset's own questions are about where things are."""
        own = self.question() is None and self.max_new_tokens is None
        return NEW_TOKENS["ground"] if own else super().new_tokens

    def inputs(self) -> tuple[UUID, ...]:
        own = self.parts or (self.dataset, *self.weights())
        return tuple(dict.fromkeys(own))

    def trees(self) -> tuple[UUID, ...]:
        return () if self.parts else self.inputs()

    def split_up(self, new: Callable[[], UUID]) -> Mapping[UUID, Spec]:
        if self.shards == 1 or self.shard is not None:
            return {}
        return {
            new(): self.model_copy(update={"shard": number, "parts": (), "gathered": True})
            for number in range(self.shards)
        }

    def gathering(self, jobs: Sequence[UUID]) -> "PredictionSpec":
        return self.model_copy(update={"parts": tuple(Reference(f"job:{job}/{PREDICTIONS}") for job in jobs)})


class PredictionResult(Result):
    samples: int = Field(description="Lines in the file: the samples that were asked about.")
    answered: int = Field(description="Those that have an answer.")
    unanswered: int = Field(description="Samples whose picture or question could not be used; each line says why.")
    objects: int = Field(description="What was found, in all answers together.")
    finish_reasons: dict[str, int] = Field(description="How many answers ended in which way.")
    prompt_tokens: int = Field(description="Tokens of all questions, the pictures' among them.")
    completion_tokens: int = Field(description="Tokens of all answers.")
    model: ModelUsed | None = Field(None, description="The model that answered; of several shards, the first one's.")
