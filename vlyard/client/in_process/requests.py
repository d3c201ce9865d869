"""One request to a VLyard in memory: what it asks, checked as the API checks it, and how it is answered."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlyard.errors import VLyardError
from vlyard.jobs.events import DONE, STREAM_TYPE
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.state import State
from vlyard.jobs.view import POOL_PATTERN
from vlyard.problems import MEDIA_TYPE, document, refusal, status_of

B = TypeVar("B", bound=BaseModel)
JSON_TYPE = "application/json"


class Listing(BaseModel):
    """Which jobs are asked for."""

    model_config = ConfigDict(extra="ignore")

    state: State | None = None
    kind: str | None = Field(None, pattern=f"^({'|'.join(KINDS)})$")
    pool: str | None = Field(None, pattern=POOL_PATTERN)
    label: list[str] = []
    cursor: UUID | None = None
    limit: int = Field(50, ge=1, le=200)


class Reading(BaseModel):
    """From where on, and how much, of what comes bit by bit."""

    model_config = ConfigDict(extra="ignore")

    after: int = Field(0, ge=0)
    limit: int = Field(100, ge=1, le=1000)
    attempt: int | None = Field(None, ge=1)
    follow: bool = False
    links: bool = False
    wait: float = Field(0, ge=0, le=60)


@dataclass(frozen=True)
class Asked:
    """A request, read to its end, and what its path names."""

    request: httpx.Request
    names: Sequence[str]

    @property
    def id(self) -> UUID:
        return UUID(self.names[0])

    @property
    def streamed(self) -> bool:
        """Whether a stream of server-sent events is wanted."""
        return STREAM_TYPE in self.request.headers.get("Accept", "")

    def body(self, kind: type[B]) -> B:
        """The body. Raises `InvalidInput` that names each fault, as the API does."""
        content = self.request.content
        try:
            value = json.loads(content) if content else None
        except ValueError as error:  # no JSON, or no text at all
            said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            fault = {"type": "json_invalid", "loc": ("body",), "msg": "JSON decode error", "ctx": {"error": said}}
            raise refusal([fault]) from error
        if value is None:
            raise refusal([{"type": "missing", "loc": ("body",), "msg": "Field required"}])
        return _checked(kind, value, "body")

    def query(self, kind: type[B]) -> B:
        """The query's parameters; `Last-Event-ID` counts for more than `after`."""
        found = parse_qs(self.request.url.query.decode())
        known: dict[str, Any] = {name: values[-1] for name, values in found.items()}
        if "label" in found:
            known["label"] = found["label"]
        if last := self.request.headers.get("Last-Event-ID"):
            known["after"] = last
        return _checked(kind, known, "query")


def _checked(kind: type[B], value: Any, part: str) -> B:
    try:
        return kind.model_validate(value, from_attributes=True)
    except ValidationError as error:
        raise refusal({**fault, "loc": (part, *fault["loc"])} for fault in error.errors()) from error


# --- answers --------------------------------------------------------------------------------------------------


def answer(status: int, shown: BaseModel, **headers: str) -> httpx.Response:
    """What the API shows, as JSON."""
    return httpx.Response(status, headers={"Content-Type": JSON_TYPE, **headers}, content=shown.model_dump_json())


def problem(request: httpx.Request, error: VLyardError) -> httpx.Response:
    """An error as a problem document."""
    status, number = status_of(error), uuid4().hex
    body = document(status, error.code, error.message, error.complaints, path=request.url.path, request_id=number)
    headers = {"Content-Type": MEDIA_TYPE, "X-Request-Id": number}
    return httpx.Response(status, headers=headers, content=json.dumps(body).encode())


def content(request: httpx.Request, data: bytes, media_type: str) -> httpx.Response:
    """Bytes, or as many of them as the request's Range asks for."""
    start = request.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
    begin = int(start) if start.isdecimal() and int(start) < len(data) else 0
    headers = {"Content-Type": media_type, "Content-Length": str(len(data) - begin)}
    if begin:
        headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
    # As a stream: a response whose bytes are given counts as read, and could not be read piece by piece.
    return httpx.Response(206 if begin else 200, headers=headers, content=iter([data[begin:]]))


Next = Callable[[int], tuple[Sequence[tuple[str, int, BaseModel]], bool]]


def stream(after: int, following: Next) -> httpx.Response:
    """A stream of server-sent events.

    `following` waits for what comes after a number, as (type, number, data), and says whether that was all.
    """

    def messages() -> Iterator[bytes]:
        read, over = after, False
        while not over:
            found, over = following(read)
            for type, read, data in found:  # the last number is where it goes on
                yield f"id: {read}\nevent: {type}\ndata: {data.model_dump_json()}\n\n".encode()
            if not found and not over:
                yield b": still here\n\n"
        yield f"event: {DONE}\ndata: {{}}\n\n".encode()

    return httpx.Response(200, headers={"Content-Type": STREAM_TYPE}, content=messages())
