"""What the client's parts need of each other: its calls, its connections, and a transport that needs no network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import httpx
from pydantic import BaseModel

V = TypeVar("V", bound=BaseModel)


class Call(Protocol):
    """One call of the API with all its tries, as `Client` makes it."""

    def __call__(
        self,
        answer: type[V],
        method: str,
        path: str,
        *,
        params: Mapping[str, str | list[str]] | None = None,
        body: BaseModel | None = None,
        patience: float = 0.0,
    ) -> V: ...


@dataclass(frozen=True)
class Wire:
    """A client's side of the connection."""

    http: httpx.Client
    call: Call
    headers: Callable[[str, str | None], dict[str, str]]  # of a request by its method and Idempotency-Key


class SelfContained(httpx.BaseTransport):
    """A transport that is the API itself: a client that has it needs neither a URL nor a key."""

    url: str
    key: str
