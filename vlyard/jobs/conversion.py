"""From a folder of YOLO labels to a Qwen3-VL grounding dataset."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from vlyard.jobs.spec import ArtefactId, Result, Spec

DEFAULT_PROMPT = (
    "Locate all objects in this image and output the bbox coordinates in JSON format using relative "
    "coordinates in the range [0, 1000]."
)


class ConversionSpec(Spec):
    kind: Literal["conversion"] = "conversion"
    source: ArtefactId = Field(description="A zip or tar archive with pictures and YOLO detection labels.")
    name: str = Field(
        "grounding",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="The dataset's name: its key in dataset_info.json and its file's stem.",
    )
    prompt: str = Field(
        DEFAULT_PROMPT, min_length=1, max_length=4_000, description="What the user turn asks, without <image>."
    )
    policy: Literal["fix", "skip", "strict"] = Field(
        "fix",
        description="What to do with a faulty label line: fix mends what has one clear mending and refuses the rest, "
        "skip refuses every faulty line, strict fails the job at the first one.",
    )
    keep_empty: bool = Field(
        True, description="Keep pictures with no object, answered by an empty list, so that the model learns to say so."
    )

    def inputs(self) -> tuple[UUID, ...]:
        return (self.source,)


class ConversionResult(Result):
    layout: str = Field(description="The layout that was recognised: ultralytics, roboflow, darknet or same_folder.")
    classes: tuple[str, ...]
    samples: int = Field(description="Pictures that became a sample.")
    boxes: int = Field(description="Boxes in all samples.")
    lines_kept: int
    lines_fixed: int
    lines_refused: int
    pictures_refused: int
