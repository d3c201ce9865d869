"""From a labelled data set in any format to a grounding data set for Qwen3-VL, or to another label format."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from vlyard.formats.prompts import DEFAULT_PROMPT as DEFAULT_PROMPT  # noqa: PLC0414 - what a conversion asks
from vlyard.jobs.spec import ArtefactId, Result, Spec

# A file's stem and a key; never a path.
RESERVED_NAMES = frozenset({"report", "statistics", "dataset_info"})  # the stems of files that lie beside
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

Prompt = Annotated[str, StringConstraints(min_length=1, max_length=4_000)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class ConversionOptions(BaseModel):
    """How to convert: the same for a job and for the command on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        "grounding",
        pattern=NAME_PATTERN,
        description="The data set's name: its key in dataset_info.json and its file's stem. That is the first split, "
        "train where there is one; the others are called `<name>_val` and `<name>_test`.",
    )
    to: Literal["sharegpt", "sharegpt-from-value", "qwen", "swift", "trl", "tutorial", "yolo", "coco", "voc"] = Field(
        "sharegpt",
        description="What to write: LLaMA-Factory's sharegpt with role/content or from/value turns, the files of "
        "Qwen's own finetuning code, of ms-swift or of TRL, what the well-known tutorial's script writes, or a label "
        "format.",
    )
    source_format: Literal["auto", "yolo", "coco", "voc", "labelme", "answers"] = Field(
        "auto", description="The source's label format; auto recognises it, and the report says by what."
    )
    labels: str = Field(
        "",
        max_length=1_000,
        description="The file or folder in the source that holds the labels, where it has several.",
    )
    coordinates: Literal["relative", "pixels-cxcywh", "pixels-xywh", "pixels-xyxy"] = Field(
        "relative",
        description="What the four numbers of a YOLO row or an answer's box are: relative as the format says, or "
        "pixels of the picture: centre and size, left top corner and size, or two corners (answers: these alone). "
        "Pixels are never guessed.",
    )
    kpt_shape: str = Field(
        "",
        pattern=r"^(0|[1-9][0-9]{0,2}x[23])?$",
        description="How many keypoints a YOLO row has and numbers for each, such as `17x3`, where no data.yaml says "
        "so; `0`: rows are outlines. Empty: recognised, where every row shows the same.",
    )
    policy: Literal["fix", "skip", "strict"] = Field(
        "fix",
        description="What to do with a fault in an annotation, a picture or the set: fix mends what has one clear "
        "mending and refuses the rest, skip refuses everything faulty, strict fails at the first fault.",
    )
    check: Literal["decode", "header", "none"] = Field(
        "decode",
        description="How pictures are checked: decoded to their last pixel, by their header, EXIF and end alone, or "
        "not opened at all. Without opening no picture is turned upright.",
    )

    classes: tuple[int | Label, ...] = Field(
        (), description="The classes to keep, by id or by name as the source has it; none: all."
    )
    rename: dict[str, Label] = Field(
        {}, description="New names for classes, by id or by name; classes that get the same name are merged."
    )
    attributes: tuple[Label, ...] = Field(
        (), description="Attributes of the source that answers keep beside the label, such as `occluded`; `*`: all."
    )
    min_size: float = Field(
        0, ge=0, description="Leave out boxes whose shorter side has fewer pixels of the displayed picture."
    )

    prompts: tuple[Prompt, ...] = Field(
        (),
        max_length=100,
        description="What user turns ask, without <image>; `{class}` stands for one class and `{classes}` for all. "
        "Several are chosen from by seed. None: VLyard's own, in `language`.",
    )
    language: Literal["en", "zh", "both"] = Field("en", description="The language of VLyard's own prompts.")
    ask: Literal["all", "classes", "each"] = Field(
        "all",
        description="What one question asks for: all objects; all objects of the set's classes, which it names; or "
        "each class by itself, a question for every class that the picture shows.",
    )
    questions: int = Field(1, ge=1, le=20, description="How many times a picture is asked about, each in other words.")
    answer: Literal["native", "objects"] = Field(
        "native",
        description="The answers' shape: the top-level list that Qwen3-VL was trained on, or the `objects` wrapper.",
    )
    targets: Literal["boxes", "points"] = Field(
        "boxes",
        description="Answer with boxes, or with the points of objects: keypoints where there are, else centres.",
    )
    order: Literal["source", "position", "size", "class", "shuffled"] = Field(
        "source",
        description="The order of an answer's objects: as in the source, from top to bottom and left to right, from "
        "large to small, by class, or shuffled by seed.",
    )
    max_boxes: int | None = Field(None, ge=1, description="The most objects of one answer.")
    max_answer_tokens: int | None = Field(
        None, ge=16, description="The most tokens of one answer, as `tokenizer` counts them."
    )
    overflow: Literal["split", "refuse"] = Field(
        "split", description="What to do beyond these: ask for the objects in parts, or refuse the picture."
    )
    negatives: float | None = Field(
        None,
        ge=0,
        description="At most so many samples without objects for each one with objects, chosen by seed; none: keep "
        "all, answered by an empty list, so that the model learns to say so. With `ask: each` these are questions for "
        "classes that the picture does not show.",
    )
    split: dict[Literal["train", "val", "test"], Ratio] | None = Field(
        None,
        description="Shares of a new split, chosen by seed, such as train 0.9 and val 0.1; none: the source's own.",
    )
    hold_out: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Where the source has one split only: the share of its pictures that becomes `val`, chosen by "
        "seed. A source with splits of its own keeps them.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="What everything that is chosen by chance depends on.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name.lower() in RESERVED_NAMES:
            raise ValueError(f"`name` cannot be {self.name}: that file is the conversion's own")
        if self.split is not None and abs(sum(self.split.values()) - 1) > 1e-6:
            raise ValueError("the shares of `split` must add up to 1, such as train 0.9 and val 0.1")
        if self.split is not None and self.hold_out is not None:
            raise ValueError("`split` and `hold_out` both make splits: choose")
        if self.check == "none" and self.min_size:
            raise ValueError("`min_size` needs the size of pictures: choose `check: header`")
        return self


class ConversionSpec(ConversionOptions, Spec):
    kind: Literal["conversion"] = "conversion"
    source: ArtefactId = Field(
        description="A zip or tar archive, or a directory, with pictures and labels in one of the known formats."
    )
    tokenizer: ArtefactId | None = Field(
        None, description="The `tokenizer.json` that counts an answer's tokens, for `max_answer_tokens`."
    )

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if self.max_answer_tokens is not None and self.tokenizer is None:
            raise ValueError("`max_answer_tokens` needs `tokenizer`: upload the model's tokenizer.json")
        return self

    def inputs(self) -> tuple[UUID, ...]:
        return (self.source,) if self.tokenizer is None else (self.source, self.tokenizer)

    def trees(self) -> tuple[UUID, ...]:
        return (self.source,)


class ConversionResult(Result):
    format: str = Field(description="The label format that was recognised: yolo, coco, voc, labelme or answers.")
    layout: str = Field(description="The layout that was recognised, such as ultralytics, roboflow or darknet.")
    classes: tuple[str, ...] = Field(description="By id; without a file of names, those that were met.")
    samples: int = Field(description="Questions with their answers; pictures where a label format was written.")
    boxes: int = Field(description="Objects in all samples.")
    annotations_kept: int = Field(description="Annotations that were used as they stand.")
    annotations_fixed: int = Field(description="Annotations that were mended, or dropped as duplicates.")
    annotations_refused: int = Field(description="Annotations that were not used; the report says why, one by one.")
    annotations_left_out: int = Field(
        description="Annotations that the options leave out: other classes, small boxes, points where boxes are asked "
        "for."
    )
    pictures_refused: int
