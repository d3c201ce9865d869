"""From a folder of YOLO labels to a Qwen3-VL grounding dataset."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from vlyard.jobs.spec import ArtefactId, Result, Spec

DEFAULT_PROMPT = (
    "Locate all objects in this image and output the bbox coordinates in JSON format using relative "
    "coordinates in the range [0, 1000]."
)

# A file's stem and a key; never a path.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


class ConversionSpec(Spec):
    kind: Literal["conversion"] = "conversion"
    source: ArtefactId = Field(
        description="A zip or tar archive, or a directory, with pictures and YOLO detection labels."
    )
    name: str = Field(
        "grounding",
        pattern=NAME_PATTERN,
        description="The dataset's name: its key in dataset_info.json and its file's stem. That is the first split, "
        "train where there is one; the others are called `<name>_val` and `<name>_test`.",
    )
    prompt: str = Field(
        DEFAULT_PROMPT, min_length=1, max_length=4_000, description="What the user turn asks, without <image>."
    )
    policy: Literal["fix", "skip", "strict"] = Field(
        "fix",
        description="What to do with a fault in a label line, a picture or the set: fix mends what has one clear "
        "mending and refuses the rest, skip refuses everything faulty, strict fails the job at the first fault.",
    )
    keep_empty: bool = Field(
        True, description="Keep pictures with no object, answered by an empty list, so that the model learns to say so."
    )

    def inputs(self) -> tuple[UUID, ...]:
        return (self.source,)

    def trees(self) -> tuple[UUID, ...]:
        return (self.source,)


class ConversionResult(Result):
    layout: str = Field(description="The layout that was recognised: ultralytics, roboflow, darknet or same_folder.")
    classes: tuple[str, ...] = Field(description="By id; without a file of names, those that were met.")
    samples: int = Field(description="Pictures that became a sample.")
    boxes: int = Field(description="Boxes in all samples.")
    lines_kept: int = Field(description="Label lines that were used as they stand.")
    lines_fixed: int = Field(description="Label lines that were mended, or dropped as duplicates.")
    lines_refused: int = Field(description="Label lines that were not used; the report says why, line by line.")
    pictures_refused: int
