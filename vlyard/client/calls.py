"""The client: every call of the API as one typed method. Knows URLs and what travels; how tries go is elsewhere."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel, ValidationError

from vlyard.client import downloading, uploading
from vlyard.client.following import SILENCE, follow_stream
from vlyard.client.patience import Patience, connection_trouble, persist, refused
from vlyard.client.problems import invalid
from vlyard.client.uploading import Told, untold
from vlyard.client.wire import Wire
from vlyard.errors import (
    Cancelled,
    Conflict,
    InvalidInput,
    JobFailed,
    Unauthenticated,
    VLyardError,
    WaitTimeout,
)
from vlyard.jobs.events import STREAM_TYPE, Event
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.output import Artefacts, LogPage, LogPiece
from vlyard.jobs.spec import Result, Spec
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import (
    Accepted,
    Artefact,
    Batch,
    Changes,
    Entry,
    Job,
    NewPriority,
    Page,
    Submission,
)
from vlyard.trees import TreeFile

URL_VARIABLE, KEY_VARIABLE = "VLYARD_URL", "VLYARD_API_KEY"
TIMEOUT = 30.0  # seconds for one call with all its tries
TRY, SHORTEST_TRY = 10.0, 0.1  # seconds for one try
LONGEST_WAIT = 60.0  # seconds that the API holds a request at most
POLL, POLL_WITH_PROGRESS = 30.0, 1.0  # seconds that one look at a job waits for its end
_LOOPBACK: dict[str, httpx.BaseTransport | None] = dict.fromkeys(
    ("all://localhost", "all://127.0.0.1", "all://[::1]")  # never by way of a proxy from the environment
)

V = TypeVar("V", bound=BaseModel)


class Client:
    """A team's way to VLyard.

    `base_url` and `api_key` default to the environment's VLYARD_URL and VLYARD_API_KEY. `timeout` is how many
    seconds a call may take with all its tries, besides what it was asked to wait: calls are repeated after lost
    connections, silence, and the statuses 429, 502, 503 and 504, and every POST carries one Idempotency-Key through
    all its tries, so that nothing happens twice. `transport` replaces httpx's own.

    Methods raise the classes of `vlyard.errors`: what the API's problem document says, or `Unavailable` where no
    answer came. A client may be shared by threads, and is a context manager that closes its connections.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
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

    # --- jobs -------------------------------------------------------------------------------------------------

    def submit(
        self,
        spec: Spec,
        *,
        pool: str = "default",
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        wait: float = 0.0,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job, and give it up to `wait` seconds (60 at most) to end before the answer comes.

        The same `idempotency_key` with the same job gives the same job again, also from another process.
        """
        try:
            body = Submission(spec=spec, pool=pool, priority=priority, labels=dict(labels or {}))
        except ValidationError as error:
            raise invalid(error, "the submission") from error
        return self._call(Job, "POST", "/v1/jobs", body=body, key=idempotency_key, wait=wait)

    def submit_many(self, entries: Sequence[Entry], *, idempotency_key: str | None = None) -> Sequence[Job]:
        """Submit up to 1,000 jobs, all or none, which may name each other's outputs; returns them in their order."""
        try:
            body = Batch(jobs=tuple(entries))
        except ValidationError as error:
            raise invalid(error, "the batch") from error
        return self._call(Accepted, "POST", "/v1/jobs:batch", body=body, key=idempotency_key).data

    def job(self, id: UUID | str, wait: float = 0.0) -> Job:
        """Look at a job, after up to `wait` seconds (60 at most) if it has not ended before."""
        return self._call(Job, "GET", f"/v1/jobs/{_uuid(id)}", wait=wait)

    def jobs(self, state: State | str | None = None, kind: str | None = None) -> Iterator[Job]:
        """All jobs of the team, the youngest first, fetched page by page as the iteration goes."""
        asked = {name: value for name, value in {"state": state, "kind": kind}.items() if value is not None}
        page = self._call(Page, "GET", "/v1/jobs", params=asked)
        yield from page.data
        while page.next_cursor is not None:
            page = self._call(Page, "GET", "/v1/jobs", params={**asked, "cursor": page.next_cursor})
            yield from page.data

    def cancel(self, id: UUID | str) -> Job:
        """Ask for a job to be stopped; the answer may come before it stops. Raises `Conflict` if it has ended."""
        return self._call(Job, "POST", f"/v1/jobs/{_uuid(id)}/cancel")

    def retry(self, id: UUID | str, *, idempotency_key: str | None = None) -> Job:
        """Submit an ended job once more; returns the new one. Raises `Conflict` while it has not ended."""
        return self._call(Job, "POST", f"/v1/jobs/{_uuid(id)}/retry", key=idempotency_key)

    def clone(self, id: UUID | str, changes: Changes | None = None, *, idempotency_key: str | None = None) -> Job:
        """Submit a job, in whatever state, once more with changes; returns the new one."""
        return self._call(Job, "POST", f"/v1/jobs/{_uuid(id)}/clone", body=changes or Changes(), key=idempotency_key)

    def reprioritise(self, id: UUID | str, priority: int) -> Job:
        """Give a waiting job another priority, -100 to 100. Raises `Conflict` once it has left the queue."""
        try:
            body = NewPriority(priority=priority)
        except ValidationError as error:
            raise invalid(error, "the priority") from error
        return self._call(Job, "POST", f"/v1/jobs/{_uuid(id)}/priority", body=body)

    def wait(
        self, id: UUID | str, *, timeout: float | None = None, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Wait until a job has ended, however it did, and return it then.

        `on_progress` is called with the job at first and then each time its state, attempt or progress changed,
        looked at once a second. Raises `WaitTimeout` after `timeout` seconds; the job goes on.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        longest = POLL_WITH_PROGRESS if on_progress else POLL
        wait, told = 0.0, None
        while True:
            job = self.job(id, wait=wait)
            if on_progress and told != (told := (job.state, job.attempt, job.progress)):
                on_progress(job)
            if job.state in TERMINAL:
                return job
            left = longest if give_up is None else give_up - time.monotonic()
            if left <= 0:
                raise WaitTimeout(f"job {id} is still {job.state} after {timeout:g} s; it goes on")
            wait = min(longest, left)

    def result(self, job: Job) -> Result:
        """What a job brought back, as its kind's own class.

        Raises `JobFailed` with the job's message and complaints, `Cancelled`, or `Conflict` where it has not ended.
        """
        if job.state is State.FAILED:
            raise _failure(job)
        if job.state is State.CANCELLED:
            raise Cancelled(f"job {job.id} was cancelled")
        if job.state is not State.SUCCEEDED:
            raise Conflict(f"job {job.id} is {job.state}: wait for its end before its result")
        if job.kind not in KINDS:
            raise VLyardError(f"job {job.id} is of kind {job.kind!r}, younger than this client: upgrade vlyard")
        try:  # fields that a younger server adds are left out
            return KINDS[job.kind].result.model_validate(job.result, extra="ignore")
        except ValidationError as error:
            raise VLyardError(f"the result of job {job.id} does not fit this client: upgrade vlyard") from error

    def run(
        self,
        spec: Spec,
        *,
        pool: str = "default",
        priority: int = 0,
        timeout: float | None = None,
        on_progress: Callable[[Job], None] | None = None,
        idempotency_key: str | None = None,
    ) -> Result:
        """`submit`, `wait` and `result` in one."""
        job = self.submit(spec, pool=pool, priority=priority, idempotency_key=idempotency_key)
        return self.result(self.wait(job.id, timeout=timeout, on_progress=on_progress))

    def events(self, id: UUID | str, after: int = 0) -> Iterator[Event]:
        """What happens to a job, as it happens, until it has ended: each event after a number once, in order.

        A lost connection is opened again where it broke off. Raises `Unavailable` where that fails for the client's
        timeout.
        """
        path = f"/v1/jobs/{_uuid(id)}/events"
        for message in follow_stream(lambda read: self._stream(path, {}, read), after):
            yield _parsed(Event, message.data, path)

    def log(self, id: UUID | str, attempt: int | None = None, *, follow: bool = False) -> Iterator[str]:
        """What an attempt's handler said, in pieces of whole lines; of the newest attempt, where none is named.

        With `follow` the iteration goes on until the attempt has ended, through lost connections as `events` does.
        """
        path = f"/v1/jobs/{_uuid(id)}/logs"
        asked = {} if attempt is None else {"attempt": str(attempt)}
        page = self._call(LogPage, "GET", path, params=asked)
        asked = {"attempt": str(page.attempt)}  # a connection that is opened again must not slip to the next one
        while page.data:
            yield from (piece.text for piece in page.data)
            page = self._call(LogPage, "GET", path, params={**asked, "after": str(page.next_after)})
        if follow and not page.ended:
            for message in follow_stream(lambda read: self._stream(path, asked, read), page.next_after):
                yield _parsed(LogPiece, message.data, path).text

    # --- artefacts --------------------------------------------------------------------------------------------

    def artefact(self, id: UUID | str) -> Artefact:
        """Look at an artefact; the answer carries a short-lived link to its content."""
        return self._call(Artefact, "GET", f"/v1/artefacts/{_uuid(id)}")

    def artefacts(self, job: UUID | str) -> tuple[Artefact, ...]:
        """The files that a job made, oldest first: its outputs, and the logs of its attempts as `log.txt`."""
        return self._call(Artefacts, "GET", f"/v1/jobs/{_uuid(job)}/artefacts").data

    def upload(
        self,
        path: Path | str,
        name: str | None = None,
        media_type: str | None = None,
        *,
        on_progress: Told = untold,
    ) -> Artefact:
        """Store a file, streamed, and have its length and SHA-256 checked; returns the artefact, ready for use.

        `name` and `media_type` default to the file's own name and what it suggests. A large file travels in parts, and
        an upload of it that was cut short goes on where it stopped. `on_progress` is called with the bytes that have
        arrived, and all.
        """
        return uploading.upload_file(self._wire, Path(path), name, media_type, on_progress)

    def upload_tree(self, folder: Path | str, name: str | None = None, *, on_progress: Told = untold) -> Artefact:
        """Store a folder with all files below it as one artefact, as `upload` does a file.

        Raises `InvalidInput` that names what cannot be in a tree: links to folders, devices, more than 20,000 files.
        """
        return uploading.upload_folder(self._wire, Path(folder), name, on_progress)

    def files(self, artefact_id: UUID | str) -> Iterator[TreeFile]:
        """The files of a tree, by path."""
        return downloading.files(self._wire, _uuid(artefact_id))

    def download(self, artefact_id: UUID | str, path: Path | str = ".", *, as_zip: bool = False) -> Path:
        """Fetch an artefact's content into a file, or under its own name into a folder; returns the file.

        The file appears once its length and SHA-256 are right, in place of what was there, or not at all. A tree is
        written below the folder `path`, or by default into one of its own name; files that are right already are left
        alone. With `as_zip` it comes as one zip. Raises `InvalidInput` where the bytes are not the artefact's.
        """
        return downloading.download(self._wire, _uuid(artefact_id), Path(path), as_zip=as_zip)

    # --- one call ---------------------------------------------------------------------------------------------

    def _call(
        self,
        answer: type[V],
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: BaseModel | None = None,
        key: str | None = None,
        wait: float = 0.0,
        patience: float = 0.0,
    ) -> V:
        wait = min(wait, LONGEST_WAIT)
        request = self._http.build_request(
            method,
            path,
            params={**(params or {}), **({"wait": f"{wait:g}"} if wait else {})},
            content=body.model_dump_json() if body else None,
            headers=self._headers(method, key) | ({"Content-Type": "application/json"} if body else {}),
        )

        def once(left: float) -> V:
            seconds = max(SHORTEST_TRY, min(TRY, left)) + wait + patience
            request.extensions["timeout"] = httpx.Timeout(seconds).as_dict()
            with connection_trouble(method, request.url):
                reply = self._http.send(request)
            if not reply.is_success:
                raise refused(reply)
            return _understood(answer, reply)

        return persist(once, Patience(seconds=self._timeout + wait + patience))

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


def _uuid(id: UUID | str) -> UUID:
    try:
        return UUID(str(id))
    except ValueError as error:
        raise InvalidInput(f"{id!r} is not an id: ids look like 0198c2f4-7a3e-7c61-9d54-3f2b8a6e1c70") from error


def _understood(answer: type[V], reply: httpx.Response) -> V:
    return _parsed(answer, reply.content, str(reply.url))


def _parsed(answer: type[V], text: str | bytes, where: str) -> V:
    try:
        return answer.model_validate_json(text)
    except ValidationError as error:
        said = f"{where} did not answer as VLyard's API does"
        raise VLyardError(f"{said}: check the base URL, and that this client is as young as the server") from error


def _failure(job: Job) -> JobFailed:
    if job.error is None:
        return JobFailed(f"job {job.id} failed and does not say why")
    return JobFailed(f"job {job.id} failed: {job.error.message} [{job.error.code}]", job.error.complaints)
