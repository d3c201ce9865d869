"""What a transfer needs of the client: its calls, and its connections for what is no call."""

from collections.abc import Callable
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
        params: dict[str, str] | None = None,
        body: BaseModel | None = None,
        patience: float = 0.0,
    ) -> V: ...


@dataclass(frozen=True)
class Wire:
    """A client's side of the connection."""

    http: httpx.Client
    call: Call
    headers: Callable[[str, str | None], dict[str, str]]  # of a request by its method and Idempotency-Key
