"""What inference and prediction jobs have in common: which model is asked, what, and how its words are chosen."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Literal, NamedTuple, Self, TypeAlias
from uuid import UUID

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, field_validator, model_validator

from vlyard.errors import InvalidInput
from vlyard.jobs.presets import NEW_TOKENS, PresetName, question
from vlyard.jobs.spec import ArtefactId, Reference, Spec

# The sampling that Qwen's tutorial uses: T 0.7, top-p 0.8, 128 new tokens.
DEFAULT_TEMPERATURE, DEFAULT_TOP_P, DEFAULT_MAX_NEW_TOKENS = 0.7, 0.8, 128
LARGEST_MODEL_IN_GPUS = 16
LONGEST_ANSWER = 32_768  # tokens

# A folder's name in the worker's model directory, or a repository of a model hub at one of its revisions.
_WORD = "[A-Za-z0-9][A-Za-z0-9._-]*"
MODEL_REPOSITORY = f"{_WORD}/{_WORD}"
MODEL_NAME = f"({_WORD}|hub:{MODEL_REPOSITORY}(@[A-Za-z0-9._/-]+)?)"
_LONGEST_NAME = 300
ALIAS = "[A-Za-z][A-Za-z0-9._-]{0,63}"
_OF_TEAM = re.compile(f"({_WORD})/({_WORD})(?::([1-9][0-9]{{0,8}})|@({ALIAS}))?")


class ModelVersion(NamedTuple):
    """A version of a team's model, written `<team>/<name>:<version>`."""

    team: str
    name: str
    version: int  # from 1

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The version that a text names, in that form and no other; None where it names none."""
        found = _OF_TEAM.fullmatch(text)
        return cls(found[1], found[2], int(found[3])) if found and found[3] else None

    def __str__(self) -> str:
        return f"{self.team}/{self.name}:{self.version}"


class ModelAlias(NamedTuple):
    """A name that a team moves from one version of a model to another, written `<team>/<name>@<alias>`."""

    team: str
    name: str
    alias: str

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The alias that a text names, in that form and no other; None where it names none."""
        found = _OF_TEAM.fullmatch(text)
        return cls(found[1], found[2], found[4]) if found and found[4] else None

    def __str__(self) -> str:
        return f"{self.team}/{self.name}@{self.alias}"


def _model(value: object) -> UUID | str:
    """An artefact, another job's output, or a name."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        if value.startswith(("ref:", "job:")):
            return Reference(value)
        with suppress(ValueError):
            return UUID(value)
        named = re.fullmatch(MODEL_NAME, value) or ModelVersion.read(value) or ModelAlias.read(value)
        if len(value) <= _LONGEST_NAME and named:
            return value
        if _OF_TEAM.fullmatch(value):
            raise ValueError(f"give a version, such as {value}:1, or write hub:{value} for a model of the hub")
    raise ValueError(
        "a model is `demo`, a folder's name, hub:<owner>/<name>, <team>/<name>:<version>, or an artefact's id"
    )


ModelId: TypeAlias = Annotated[
    UUID | str,
    PlainValidator(_model),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "maxLength": _LONGEST_NAME}),
]
Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=32_000)]
Word: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
# Of kinds that ask a dataset's own questions.
AnswerTokens: TypeAlias = Annotated[
    int | None,
    Field(
        ge=1,
        le=LONGEST_ANSWER,
        description="Default: what the answers to the preset need, or those to the dataset's own questions "
        f"({NEW_TOKENS['ground']}); {DEFAULT_MAX_NEW_TOKENS} with a prompt.",
    ),
]


class GenerationSpec(Spec):
    """Which model, which question, and how the answer is chosen."""

    prompt: Text | None = Field(None, description="The question, in your own words.")
    preset: PresetName | None = Field(
        None, description="The question in the words that the model was trained on; `classes` and so on fill it."
    )
    language: Literal["en", "zh"] = Field("en", description="The language of the preset's words.")
    classes: tuple[Word, ...] = Field((), max_length=500, description="What to look for, for presets that ask so.")
    keys: tuple[Word, ...] = Field((), max_length=200, description="What to read, for `key_information`.")
    description: Text | None = Field(None, description="The one thing that is meant, for `refer`.")
    system: Text | None = Field(None, description="A system message, before everything else.")

    model: ModelId = Field(
        "demo",
        description="`demo`, `untrained`, a folder's name in the worker's model directory, `hub:<owner>/<name>` with "
        "an optional `@<revision>`, `<team>/<name>:<version>` or `<team>/<name>@<alias>`, or a checkpoint's artefact.",
    )
    adapter: ArtefactId | None = Field(
        None, description="A LoRA adapter, as PEFT saves it, to put on the model, which others go on sharing."
    )
    gpus: int = Field(1, ge=1, le=LARGEST_MODEL_IN_GPUS, description="How many GPUs to spread the model over.")

    do_sample: bool = Field(True, description="Sample the answer; false takes the likeliest token each time.")
    temperature: float = Field(DEFAULT_TEMPERATURE, gt=0, le=2, description="Higher makes the answer more varied.")
    top_p: float = Field(DEFAULT_TOP_P, gt=0, le=1, description="The part of the probability that is sampled from.")
    top_k: int = Field(20, ge=1, le=1_000, description="The number of tokens that are sampled from.")
    repetition_penalty: float = Field(
        1.0, gt=0, le=2, description="Divides the scores of tokens that the question or the answer has; 1: none."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from the scores of tokens that the answer has; 0: none."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted as many times as the answer has the token; 0: none."
    )
    stop: tuple[Word, ...] = Field((), max_length=16, description="Texts that end the answer, and are not in it.")
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=LONGEST_ANSWER,
        description=f"Default: {DEFAULT_MAX_NEW_TOKENS}, or what the preset's answers need.",
    )
    seed: int | None = Field(None, ge=0, lt=2**32, description="Makes the sampling repeatable.")
    min_pixels: int | None = Field(None, ge=1, le=2**28, description="Smaller pictures are enlarged to so many pixels.")
    max_pixels: int | None = Field(
        None,
        ge=1,
        le=2**28,
        description="Larger ones are shrunk; default: the model's own. Very slim ones may stay larger: by Qwen's own "
        "arithmetic no side is under one cell of 32 pixels.",
    )

    @field_validator("stop")
    @classmethod
    def _distinct(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(texts))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError("min_pixels is larger than max_pixels")
        if self.preset is None and (self.classes or self.keys or self.description):
            raise ValueError("classes, keys and description fill a preset's question: choose a preset")
        if self.preset is not None and self.prompt is not None:
            raise ValueError("give a prompt or a preset, not both")
        self.question()
        return self

    def question(self) -> str | None:
        """The question's words; None where the specification leaves them to something else."""
        if self.preset is None:
            return self.prompt
        try:
            return question(self.preset, self.language, self.classes, self.keys, self.description)
        except InvalidInput as error:
            raise ValueError(str(error)) from None

    @property
    def new_tokens(self) -> int:
        """How many tokens the answer may have."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return DEFAULT_MAX_NEW_TOKENS if self.preset is None else NEW_TOKENS[self.preset]

    def weights(self) -> Iterator[UUID]:
        """The model and the adapter, where they are artefacts."""
        yield from (each for each in (self.model, self.adapter) if isinstance(each, UUID))
