"""Ask a Qwen3-VL model about a picture."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from vlyard.jobs.spec import ArtefactId, Result, Spec

# The sampling that Qwen's tutorial uses: T 0.7, top-p 0.8, 128 new tokens.
DEFAULT_TEMPERATURE, DEFAULT_TOP_P, DEFAULT_MAX_NEW_TOKENS = 0.7, 0.8, 128


class InferenceSpec(Spec):
    kind: Literal["inference"] = "inference"
    image: ArtefactId = Field(description="The picture to ask about.")
    prompt: str = Field(min_length=1, max_length=32_000, description="The question.")
    model: str = Field(
        "demo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$",
        description="`demo`, or a folder's name in the worker's model directory.",
    )
    do_sample: bool = Field(True, description="Sample the answer; false takes the likeliest token each time.")
    temperature: float = Field(DEFAULT_TEMPERATURE, gt=0, le=2)
    top_p: float = Field(DEFAULT_TOP_P, gt=0, le=1)
    top_k: int = Field(20, ge=1, le=1_000)
    max_new_tokens: int = Field(DEFAULT_MAX_NEW_TOKENS, ge=1, le=8_192)
    seed: int | None = Field(None, ge=0, lt=2**32, description="Makes the sampling repeatable.")
    annotate: bool = Field(True, description="Draw the boxes of the answer on the picture.")

    def inputs(self) -> tuple[UUID, ...]:
        return (self.image,)


class DetectedObject(BaseModel):
    """One object of an answer, in relative (0..1000) and in pixel coordinates of the displayed picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    bbox_2d: tuple[int, int, int, int] = Field(
        description="x1, y1, x2, y2 in 0..1000 of the displayed picture; what lies outside of it is cut off."
    )
    bbox_pixels: tuple[float, float, float, float] = Field(description="The same box in pixels.")
    flags: tuple[str, ...] = Field((), description="What the parser mended in this object.")


class InferenceResult(Result):
    text: str = Field(description="The answer, word for word.")
    objects: tuple[DetectedObject, ...] = ()
    notes: tuple[str, ...] = Field((), description="What the parser noticed about the answer as a whole.")
    width: int = Field(description="Of the displayed picture, in pixels.")
    height: int
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    model: str
    attention: str = Field(description="The attention implementation that ran, such as sdpa.")
    dtype: str
    device: str
    warm: bool = Field(description="The model was in memory already.")
    load_seconds: float = Field(description="What this job waited for the model to be loaded; 0 where it was warm.")
    generate_seconds: float = Field(description="What the model worked on the answer.")
