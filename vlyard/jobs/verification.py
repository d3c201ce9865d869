"""Proving that an export is the model that it was made of: the same files, names, shapes, logits and boxes."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from vlyard.jobs.generation import ModelId
from vlyard.jobs.spec import ArtefactId, Result, Spec

REPORT = "report"  # the output's name
Weights = Literal["base", "bf16", "fp16", "fp32", "int8", "int4", "gguf"]


class VerificationSpec(Spec):
    kind: Literal["verification"] = "verification"
    export: ArtefactId = Field(description="What an export made: a directory, or a zip or tar of one.")
    model: ModelId = Field(description="What it was made of, named as for the export.")
    adapter: ArtefactId | None = Field(None, description="The adapter that was merged in, named as for the export.")
    dataset: ArtefactId | None = Field(
        None,
        description="A converted dataset, about whose pictures both models are asked; default: the one that the model "
        "learned from where that is still there, else drawn pictures.",
    )
    samples: int = Field(8, ge=1, le=1_000, description="How many questions that takes.")
    dtype: Weights | None = Field(
        None,
        description="What the weights have to be: of one type, quantised, or each as the base's are; default: what the "
        "export's config.json or the base says.",
    )

    summary: ArtefactId | None = Field(None, description="Set by VLyard: what the export said of what it wrote.")

    def inputs(self) -> tuple[UUID, ...]:
        named = (self.export, self.model, self.adapter, self.dataset, self.summary)
        return tuple(dict.fromkeys(each for each in named if isinstance(each, UUID)))

    def trees(self) -> tuple[UUID, ...]:
        return tuple(each for each in self.inputs() if each != self.summary)


class Checked(BaseModel):
    """One thing that was compared, and was right."""

    model_config = ConfigDict(frozen=True)

    name: Literal["files", "checksums", "names", "shapes", "dtypes", "weights", "processing", "logits", "boxes"]
    detail: str = Field(description="What was found, with numbers.")


class VerificationResult(Result):
    checks: tuple[Checked, ...]
    parameters: int
    dtype: str = Field(description="Of the export's weights: one type, `gguf`, or `mixed`.")
    samples: int = Field(description="Questions that both models were asked.")
    logits_difference: float | None = Field(
        description="The largest absolute difference of two logits; null for llama.cpp, where no model is asked."
    )
    same_answers: int = Field(description="Questions that both answered with the same words, greedily.")
    boxes: int = Field(description="In the answers of both, those that were matched counted once.")
    mean_iou: float | None = Field(description="Of these, matched one to one; 0 for one alone; null without boxes.")
