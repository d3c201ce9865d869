"""A client's connection to the API: where it is, with which key, and how each call is tried. Knows no call by name."""

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel, ValidationError

from vlyard.client.following import SILENCE
from vlyard.client.patience import Patience, connection_trouble, persist, refused
from vlyard.client.problems import invalid
from vlyard.client.wire import SelfContained, Wire
from vlyard.errors import InvalidInput, NotFound, Unauthenticated, UserError, VLyardError
from vlyard.jobs.events import STREAM_TYPE
from vlyard.problems import MEDIA_TYPE

URL_VARIABLE, KEY_VARIABLE = "VLYARD_URL", "VLYARD_API_KEY"
_WHERE = f"is VLyard running there? base_url or {URL_VARIABLE} says where"
TIMEOUT = 30.0  # seconds for one call with all its tries
TRY, SHORTEST_TRY = 10.0, 0.1  # seconds for one try
LONGEST_WAIT = 60.0  # seconds that the API holds a request at most
_LOOPBACK: dict[str, httpx.BaseTransport | None] = dict.fromkeys(
    ("all://localhost", "all://127.0.0.1", "all://[::1]")  # never by way of a proxy from the environment
)

V = TypeVar("V", bound=BaseModel)


class Connection:
    """What every call goes through. The calls are in the classes that build on it."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if isinstance(transport, SelfContained):
            base_url, api_key = base_url or transport.url, api_key or transport.key
        self._key = _usable_key(api_key or os.environ.get(KEY_VARIABLE, ""))
        self._timeout = timeout
        self._http = httpx.Client(
            base_url=_usable_url(base_url or os.environ.get(URL_VARIABLE, "")),
            headers={"User-Agent": "vlyard"},
            transport=transport,
            mounts=_LOOPBACK,
        )
        self._wire = Wire(self._http, self._call, self._headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        self._http.close()

    def _call(
        self,
        answer: type[V],
        method: str,
        path: str,
        *,
        params: Mapping[str, str | list[str]] | None = None,
        body: BaseModel | None = None,
        key: str | None = None,
        wait: float = 0.0,
        patience: float = 0.0,
    ) -> V:
        """What the API answers, as a value of that class. `patience` is how much longer than usual it may take."""
        wait = min(wait, LONGEST_WAIT)
        request = self._http.build_request(
            method,
            path,
            params={**(params or {}), **({"wait": f"{wait:g}"} if wait else {})},
            content=body.model_dump_json() if body else None,
            headers=self._headers(method, key) | ({"Content-Type": "application/json"} if body else {}),
        )
        reply = persist(
            lambda left: self._send(request, left, wait + patience), Patience(seconds=self._timeout + wait + patience)
        )
        return parsed(answer, reply.content, str(reply.url))

    def _delete(self, path: str) -> None:
        """Have something deleted. Raises `NotFound` where there was no such thing."""
        request = self._http.build_request("DELETE", path, headers=self._headers("DELETE", None))
        tries = 0

        def once(left: float) -> None:
            nonlocal tries
            tries += 1
            try:
                self._send(request, left)
            except NotFound:
                if tries == 1:
                    raise  # later, an earlier try has done it, and only its answer was lost

        persist(once, Patience(seconds=self._timeout))

    def _send(self, request: httpx.Request, left: float, more: float = 0.0) -> httpx.Response:
        """One try."""
        seconds = max(SHORTEST_TRY, min(TRY, left))
        request.extensions["timeout"] = httpx.Timeout(seconds, read=seconds + more).as_dict()
        with connection_trouble(request.method, request.url, _WHERE):
            reply = self._http.send(request)
        if not reply.is_success:
            error = refused(reply)
            if type(error) is UserError and not reply.headers.get("Content-Type", "").startswith(MEDIA_TYPE):
                error.add_note(f"VLyard's API does not answer so: {_WHERE}")
            raise error
        return reply

    def _stream(self, path: str, params: dict[str, str], after: int) -> httpx.Response:
        """Open a stream of server-sent events after a number; whoever gets it closes it."""
        headers = self._headers("GET", None) | {"Accept": STREAM_TYPE, "Last-Event-ID": str(after)}
        request = self._http.build_request("GET", path, params=params, headers=headers)

        def once(left: float) -> httpx.Response:
            limits = httpx.Timeout(max(SHORTEST_TRY, min(TRY, left)), read=SILENCE)
            request.extensions["timeout"] = limits.as_dict()
            with connection_trouble("GET", request.url):
                reply = self._http.send(request, stream=True)
                if reply.is_success:
                    return reply
                reply.read()
            raise refused(reply)

        return persist(once, Patience(seconds=self._timeout))

    def _headers(self, method: str, key: str | None) -> dict[str, str]:
        own = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}
        return own | {"Idempotency-Key": key or str(uuid4())} if method == "POST" else own


def _usable_url(text: str) -> httpx.URL:
    if not text:
        raise InvalidInput(f"which VLyard? Give base_url, or set {URL_VARIABLE}, as in https://vlyard.example.org")
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{text!r} is not a URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidInput(f"{text!r} is not the URL of a VLyard API: it has to begin with http:// or https://")
    return url


def _usable_key(text: str) -> str:
    key = text.strip()
    if not key:
        raise Unauthenticated(f"no API key: give api_key, or set {KEY_VARIABLE}")
    if not (key.isascii() and key.isprintable()):
        raise Unauthenticated("the API key has characters that no key has: copy it again")
    return key


def checked_id(id: UUID | str) -> UUID:
    """An id that can be a part of a path. Raises `InvalidInput` where it is none."""
    try:
        return UUID(str(id))
    except ValueError as error:
        raise InvalidInput(f"{id!r} is not an id: ids look like 0198c2f4-7a3e-7c61-9d54-3f2b8a6e1c70") from error


def checked(kind: type[V], what: str, **facts: object) -> V:
    """A body to send. Raises `InvalidInput` that names each fault by its field; `what` is what messages call it."""
    try:
        return kind.model_validate(facts)
    except ValidationError as error:
        raise invalid(error, what) from error


def parsed(answer: type[V], text: str | bytes, where: str) -> V:
    """What came from there, as a value of that class. Raises `VLyardError` where it is something else."""
    try:
        return answer.model_validate_json(text)
    except ValidationError as error:
        said = f"{where} did not answer as VLyard's API does"
        raise VLyardError(f"{said}: check the base URL, and that this client is as young as the server") from error
