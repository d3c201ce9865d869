"""Ask a Qwen3-VL model about pictures."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self, TypeAlias
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    field_validator,
    model_validator,
)

from vlyard.jobs.generation import GenerationSpec
from vlyard.jobs.spec import ArtefactId, Result

MOST_PICTURES = 64  # in one request
LARGEST_DATA_URI = 8 * 2**20  # characters: about 6 MiB of picture
_DATA, _BASE64, _ARTEFACT = "data:image/", ";base64", "artefact:"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextPart(_Part):
    type: Literal["text"] = "text"
    text: str = Field(max_length=32_000)


class PicturePart(_Part):
    """A picture by its artefact."""

    type: Literal["image"] = "image"
    image: ArtefactId


class PictureUrl(_Part):
    url: str = Field(
        max_length=LARGEST_DATA_URI,
        description="The picture itself, as `data:image/png;base64,…`, or `artefact:<id>`. Links are not followed.",
    )

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str) -> str:
        if url.startswith(_ARTEFACT):
            _artefact(url)
        elif not url.startswith(_DATA):
            raise ValueError("links are not followed: upload the picture and write artefact:<its id>, or a data: URI")
        else:
            _content(url)
        return url

    @property
    def artefact(self) -> UUID | None:
        """The artefact that it names; None where it holds the picture itself."""
        return _artefact(self.url) if self.url.startswith(_ARTEFACT) else None

    @property
    def content(self) -> bytes:
        """The picture's file, where it holds the picture itself."""
        return _content(self.url)


class PictureUrlPart(_Part):
    """A picture as OpenAI's API writes it."""

    type: Literal["image_url"] = "image_url"
    image_url: PictureUrl


Part: TypeAlias = Annotated[TextPart | PicturePart | PictureUrlPart, Field(discriminator="type")]


def _in_parts(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Annotated[tuple[Part, ...], BeforeValidator(_in_parts, json_schema_input_type=str | tuple[Part, ...])]

    @property
    def pictures(self) -> Sequence[PicturePart | PictureUrlPart]:
        return [part for part in self.content if not isinstance(part, TextPart)]

    @model_validator(mode="after")
    def _speakable(self) -> Self:
        if not self.content:
            raise ValueError("the content is empty")
        if self.role != "user" and self.pictures:
            raise ValueError(f"only a user's message shows pictures, and this is the {self.role}'s")
        return self


class InferenceSpec(GenerationSpec):
    kind: Literal["inference"] = "inference"
    image: ArtefactId | None = Field(None, description="The picture to ask about.")
    images: tuple[ArtefactId, ...] = Field(
        (), max_length=MOST_PICTURES, description="Pictures that are asked about one by one, each with its own answer."
    )
    messages: tuple[Message, ...] = Field(
        (), max_length=200, description="A conversation instead, as OpenAI's API takes it; the last turn is the user's."
    )
    annotate: bool = Field(
        True,
        description="Draw what the answer found on the picture; where one question shows several, each object on the "
        "one that the model named, and on none where it named none.",
    )

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        ways = [name for name in ("image", "images", "messages") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"give only one of {' and '.join(ways)}")
        if self.messages:
            self._expect_a_conversation()
        elif self.question() is None:
            raise ValueError("there is no question: give a prompt, a preset or messages")
        elif not ways:
            raise ValueError("there is no picture: give an image or images; a question without one goes into messages")
        if len(set(self.images)) < len(self.images):
            raise ValueError("images names a picture twice")
        return self

    def _expect_a_conversation(self) -> None:
        if self.question() is not None or self.system is not None:
            raise ValueError("messages hold the whole conversation: leave out prompt, preset and system")
        roles = [message.role for message in self.messages]
        if "system" in roles[1:]:
            raise ValueError("a system message comes first, and there is one at most")
        spoken = roles[1:] if roles[0] == "system" else roles
        if not spoken or spoken != [("user", "assistant")[at % 2] for at in range(len(spoken))] or len(spoken) % 2 == 0:
            raise ValueError("user and assistant take turns, beginning and ending with the user")
        shown = sum(len(message.pictures) for message in self.messages)
        if shown > MOST_PICTURES:
            raise ValueError(f"the messages show {shown} pictures, and {MOST_PICTURES} at most fit in one request")

    def inputs(self) -> tuple[UUID, ...]:
        return tuple(dict.fromkeys(self._inputs()))

    def trees(self) -> tuple[UUID, ...]:
        return tuple(self.weights())

    def _inputs(self) -> Iterator[UUID]:
        if self.image is not None:
            yield self.image
        yield from self.images
        for part in (part for message in self.messages for part in message.pictures):
            named = part.image if isinstance(part, PicturePart) else part.image_url.artefact
            if named is not None:
                yield named
        yield from self.weights()


def _artefact(url: str) -> UUID:
    named: UUID = TypeAdapter(ArtefactId).validate_python(url.removeprefix(_ARTEFACT))
    return named


def _content(url: str) -> bytes:
    head, comma, content = url.partition(",")
    if not comma or not head.endswith(_BASE64):
        raise ValueError("a data URI of a picture begins with data:image/png;base64, or so")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"what follows base64, is not base64: {error}") from None


# --- what comes back ------------------------------------------------------------------------------------------

_Thousandths: TypeAlias = tuple[int, int, int, int]
_Pixels: TypeAlias = tuple[float, float, float, float]


class _Found(BaseModel):
    """What all objects have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: int | None = Field(
        None,
        description="Which of the answer's pictures it is in, from 0; null where several were shown and the model "
        "named none of them: it is then drawn on none.",
    )
    attributes: dict[str, JsonValue] = Field({}, description="What else the model said of it.")
    flags: tuple[str, ...] = Field((), description="What the parser mended in this object.")


class _Boxed(_Found):
    bbox_2d: _Thousandths = Field(
        description="x1, y1, x2, y2 in 0..1000 of the displayed picture; what lies outside of it is cut off."
    )
    bbox_pixels: _Pixels | None = Field(None, description="The same box in pixels; null where the picture is unknown.")


class BoxFound(_Boxed):
    """An object with a box around it."""

    type: Literal["box"] = "box"
    label: str


class LineFound(_Boxed):
    """A line of text that was read."""

    type: Literal["line"] = "line"
    text: str


class ElementFound(_Boxed):
    """A part of a document, such as a heading or a table."""

    type: Literal["element"] = "element"
    tag: str
    text: str = ""


class PointFound(_Found):
    """An object that was pointed at."""

    type: Literal["point"] = "point"
    label: str
    point_2d: tuple[int, int] = Field(description="x, y in 0..1000 of the displayed picture.")
    point_pixels: tuple[float, float] | None = None


Found: TypeAlias = Annotated[BoxFound | LineFound | ElementFound | PointFound, Field(discriminator="type")]


class PictureSize(BaseModel):
    """A picture as displayed, in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    height: int


class Answer(BaseModel):
    """What the model said, and what that means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(description="The answer, word for word.")
    objects: tuple[Found, ...] = ()
    count: int | None = Field(None, description="The number, where the answer is one.")
    thought: str = Field("", description="What the model thought before it answered.")
    notes: tuple[str, ...] = Field((), description="What the parser noticed about the answer as a whole.")
    pictures: tuple[PictureSize, ...] = Field(description="The pictures that it was shown, in their order.")
    finish_reason: Literal["stop", "length", "loop", "cancelled"] = Field(
        description="It ended by itself, was cut off at `max_new_tokens`, only repeated itself, or the job was "
        "cancelled; then these are the words so far."
    )
    prompt_tokens: int
    picture_tokens: int = Field(description="Those of the prompt's tokens that stand for pictures.")
    completion_tokens: int
    first_token_seconds: float = Field(description="From the question's arrival at the model to the first token.")
    waited_seconds: float = Field(description="Of these, what it waited for its batch.")
    generate_seconds: float = Field(description="What the model worked on the batch that it was in.")
    batch: int = Field(description="How many questions began in that batch.")
    reused_pictures: int = Field(0, description="How many of its pictures the model had seen shortly before.")


class Unanswered(BaseModel):
    """A picture that has no answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: UUID
    code: str
    message: str


class ModelUsed(BaseModel):
    """The model that answered, and how it ran."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    adapter: str | None = None
    revision: str | None = Field(None, description="Of the model hub, where it came from one.")
    attention: str = Field(description="The attention implementation that ran, such as sdpa.")
    attention_reason: str
    dtype: str
    dtype_reason: str
    device: str
    gpus: int | None = Field(
        None,
        description="Over how many GPUs it is spread; 0: it is on the CPU; null in results from before it was told.",
    )
    bytes: int = Field(description="Its weights in memory.")
    warm: bool = Field(description="It was in memory already.")
    load_seconds: float = Field(description="What this job waited for it to be loaded; 0 where it was warm.")
    notes: tuple[str, ...] = Field(
        (), description="What is worth knowing about it, such as an adapter that says that it is for another base."
    )


class InferenceResult(Result):
    answers: tuple[Answer, ...] = Field(
        description="One, or with `images` one for each picture that has an answer, in their order."
    )
    unanswered: tuple[Unanswered, ...] = Field((), description="The pictures of `images` that have none, and why.")
    model: ModelUsed

    @property
    def answer(self) -> Answer:
        """The only answer. Raises `ValueError` where there are several."""
        if len(self.answers) != 1:
            raise ValueError(f"there are {len(self.answers)} answers: read them from `answers`")
        return self.answers[0]

    @property
    def text(self) -> str:
        """The only answer's words."""
        return self.answer.text

    @property
    def objects(self) -> tuple[Found, ...]:
        """What the only answer found."""
        return self.answer.objects
