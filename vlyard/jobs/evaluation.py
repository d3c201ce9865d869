"""Measuring how well a model finds things: its answers about labelled pictures beside their truth."""

from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlyard.jobs.generation import AnswerTokens, GenerationSpec, Word
from vlyard.jobs.inference import ModelUsed
from vlyard.jobs.presets import NEW_TOKENS
from vlyard.jobs.spec import ArtefactId, Result

REPORT, PICTURES, CLASSES, GALLERY = "report", "pictures", "classes", "gallery"  # the outputs' names


class EvaluationSpec(GenerationSpec):
    kind: Literal["evaluation"] = "evaluation"
    dataset: ArtefactId = Field(
        description="A converted dataset with boxes: a directory, or a zip or tar of one. Its own questions are asked "
        "unless there is a `prompt` or `preset`."
    )
    splits: tuple[str, ...] = Field((), max_length=20, description="Only these splits; default: all that it has.")
    limit: int | None = Field(None, ge=1, description="Only so many samples, the first ones.")
    predictions: ArtefactId | None = Field(
        None, description="The answers to be measured, as a prediction made them; no model is asked then."
    )
    max_new_tokens: AnswerTokens = None
    do_sample: bool = Field(False, description="Sample the answers; false takes the likeliest token each time.")
    aliases: dict[Word, Word] = Field({}, description="Labels that mean another one, such as `auto` for `car`.")
    ignore_case: bool = Field(False, description="`Car` is `car`.")
    ignore_labels: bool = Field(False, description="Match boxes whatever they are called.")
    confidence: Literal["probability", "ones"] = Field(
        "probability",
        description="What ranks boxes for mAP: the probability of their coordinates' tokens, or 1 for all, as others "
        "measure. Boxes that are equally sure rank in an arbitrary order, always the same.",
    )
    bootstrap: int = Field(1_000, ge=0, le=100_000, description="Resamplings for the confidence intervals; 0: none.")
    gallery: int = Field(16, ge=0, le=100, description="How many of the worst pictures are drawn.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.predictions is not None and (self.question() is not None or self.adapter is not None):
            raise ValueError("predictions are answers already: leave out prompt, preset and adapter")
        return self

    @property
    def new_tokens(self) -> int:
        """How many tokens an answer may have; a dataset's own questions are about where things are."""
        own = self.question() is None and self.max_new_tokens is None
        return NEW_TOKENS["ground"] if own else super().new_tokens

    def inputs(self) -> tuple[UUID, ...]:
        answers = () if self.predictions is None else (self.predictions,)
        weights = self.weights() if self.predictions is None else ()
        return tuple(dict.fromkeys((self.dataset, *answers, *weights)))

    def trees(self) -> tuple[UUID, ...]:
        return tuple(each for each in self.inputs() if each != self.predictions)


class Interval(BaseModel):
    """A figure with its 95 % bootstrap confidence interval over pictures."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float | None = None
    high: float | None = None


class AtIou(BaseModel):
    """What one-to-one matching finds where boxes count as the same from this IoU on. Independent of any order."""

    model_config = ConfigDict(frozen=True)

    iou: float
    precision: Interval
    recall: Interval
    f1: Interval
    true_positives: int
    false_positives: int
    false_negatives: int


class EvaluationResult(Result):
    samples: int = Field(description="Questions that were asked.")
    left_out: int = Field(0, description="Samples of the dataset whose own answers are no boxes: they are not asked.")
    unanswered: int = Field(description="Those whose picture could not be read, or that were not answered.")
    objects: int = Field(description="In the truth of all questions; those of unanswered ones count as missed.")
    found: int = Field(description="In the answers.")
    at_50: AtIou = Field(description="At an IoU of 0.5: the primary figures.")
    at_75: AtIou
    mean_iou: Interval = Field(
        description="Of each true object with its box, whatever their IoU, paired one to one so that the sum is the "
        "largest; 0 for those without a box."
    )
    map_50: float | None = Field(None, description="COCO's mAP at 0.5; null where the truth has no object.")
    map_50_95: float | None = None
    confidence: str = Field(description="What ranked the boxes for mAP: `probability` or `ones`.")
    counting_error: float = Field(description="The mean of |found - true| over questions.")
    negatives: int = Field(description="Questions whose truth is that there is nothing.")
    false_alarms: float | None = Field(None, description="The part of them with an object in the answer.")
    parse_failures: float = Field(description="The part of the answers in which nothing could be read.")
    salvaged: float = Field(description="The part that was mended to be read.")
    loops: float = Field(description="The part that was stopped because it repeated itself.")
    model: ModelUsed | None = Field(None, description="The model that answered; null for given predictions.")
