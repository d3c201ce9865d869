"""A VLyard for tests: a transport of httpx that is the API, its workers and its store, all in the test's process.

Requests are checked by the API's own models, and answered with its own views and problem documents. Nothing is sent
anywhere and nothing waits: a job runs as soon as its submission has been answered.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel

from vlyard.client.in_process.artefacts import Artefacts
from vlyard.client.in_process.files import Files
from vlyard.client.in_process.jobs import WORKER, Handler, Jobs
from vlyard.client.in_process.models import Models
from vlyard.client.in_process.requests import Asked, Listing, Reading, answer, content, problem, stream
from vlyard.client.wire import SelfContained
from vlyard.errors import Complaint, IdempotencyMismatch, InvalidInput, Unauthenticated, UserError, VLyardError
from vlyard.jobs.events import EventPage
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.output import Artefacts as MadeFiles
from vlyard.jobs.output import LogPage
from vlyard.jobs.spec import Result, Spec
from vlyard.jobs.state import TERMINAL
from vlyard.jobs.view import Accepted, Batch, Changes, Job, NewArtefact, NewPriority, NewTree, Page, Submission
from vlyard.pools import Load, Pool, Pools, Worker
from vlyard.teams import Me, Role, Team

_HEARTBEAT_SECONDS = 15.0
_POOL = "default"


class InProcess(SelfContained):
    """Give it to a client, with what does the jobs of each kind:

        transport = InProcess({ConversionSpec: lambda spec, files: ConversionResult(...)})
        with Client(transport=transport) as client: ...

    A value is called with the specification and the job's `Files`, and returns the kind's result; or it is that
    result, for every job of the kind; or an error, with which every job of the kind fails. What a handler raises ends
    its attempt as it would at a worker: what can pass is tried again, without pauses. While the transport is held,
    jobs wait in the queue. What it does not serve (webhooks, teams and keys) it refuses by name.
    """

    def __init__(self, handlers: Mapping[type[Spec], Handler | Result | VLyardError], *, held: bool = False) -> None:
        self.url = "http://in-process.vlyard"
        self.key = "vly_in-process"
        self._held = held
        self._changed = threading.Condition(threading.RLock())
        self._started_at = datetime.now(UTC)
        self._artefacts = Artefacts(self.url)
        doers = {str(kind.model_fields["kind"].default): _handler(doer) for kind, doer in handlers.items()}
        self._models = Models(WORKER)
        self._jobs = Jobs(doers, self._artefacts, self._models, {_POOL})
        self._kinds = tuple(doers)
        self._answered: dict[str, tuple[str, int, Callable[[], BaseModel]]] = {}  # by Idempotency-Key

    @property
    def jobs(self) -> Sequence[Job]:
        """All jobs so far, the oldest first."""
        with self._changed:
            return list(reversed(self._jobs.every()))

    def hold(self) -> None:
        """Let jobs wait in the queue from now on."""
        with self._changed:
            self._held = True

    def go(self) -> None:
        """Let the jobs that wait run, by priority and age, and those that come."""
        with self._changed:
            self._held = False
            self._run()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, as httpx asks of a transport."""
        request.read()
        try:
            with self._changed:
                return self._answer(request)
        except VLyardError as error:
            return problem(request, error)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.startswith("/v1/") and not request.headers.get("Authorization", "").startswith("Bearer "):
            raise Unauthenticated
        for method, pattern, serve in _ROUTES:
            if method == request.method and (found := re.fullmatch(pattern, path)):
                return serve(self, Asked(request, found.groups()))
        raise UserError(f"an in-process VLyard does not serve {request.method} {path}: `vlyard up` starts a whole one")

    def _run(self) -> None:
        while not self._held and (line := self._jobs.waiting()):
            self._jobs.run(line[0])
        self._changed.notify_all()

    # --- jobs -------------------------------------------------------------------------------------------------

    def _submit(self, asked: Asked) -> httpx.Response:
        def submit() -> Callable[[], Job]:
            [job] = self._jobs.submit([asked.body(Submission)])
            return lambda: self._jobs.look(job.id)

        return self._accept(asked, submit)

    def _submit_batch(self, asked: Asked) -> httpx.Response:
        def submit() -> Callable[[], Accepted]:
            accepted = [job.id for job in self._jobs.submit(asked.body(Batch).jobs, "/jobs/{}")]
            return lambda: Accepted(data=tuple(map(self._jobs.look, accepted)))

        return self._accept(asked, submit)

    def _retry(self, asked: Asked) -> httpx.Response:
        def retry() -> Callable[[], Job]:
            job = self._jobs.repeat(asked.id, Changes(), ended=True)
            return lambda: self._jobs.look(job.id)

        return self._accept(asked, retry)

    def _clone(self, asked: Asked) -> httpx.Response:
        def clone() -> Callable[[], Job]:
            changes = asked.body(Changes) if asked.request.content else Changes()
            job = self._jobs.repeat(asked.id, changes)
            return lambda: self._jobs.look(job.id)

        return self._accept(asked, clone)

    def _cancel(self, asked: Asked) -> httpx.Response:
        return self._once(asked, 202, lambda: self._same(self._jobs.cancel(asked.id)))

    def _reprioritise(self, asked: Asked) -> httpx.Response:
        def move() -> Callable[[], Job]:
            return self._same(self._jobs.reprioritise(asked.id, asked.body(NewPriority).priority))

        return self._once(asked, 200, move)

    def _look(self, asked: Asked) -> httpx.Response:
        self._jobs.look(asked.id)
        return answer(200, self._after(asked, asked.id))

    def _list(self, asked: Asked) -> httpx.Response:
        wanted = asked.query(Listing)
        labels = dict(_label(text) for text in wanted.label)
        given = {name: value for name in ("state", "kind", "pool") if (value := getattr(wanted, name)) is not None}
        every = self._jobs.every()
        before = next((at + 1 for at, job in enumerate(every) if job.id == wanted.cursor), 0)
        found = [
            job.model_copy(update={"attempts": ()})
            for job in every[before:]
            if labels.items() <= job.labels.items()
            and all(getattr(job, name) == value for name, value in given.items())
        ]
        more = str(found[wanted.limit - 1].id) if len(found) > wanted.limit else None
        return answer(200, Page(data=tuple(found[: wanted.limit]), next_cursor=more))

    def _events(self, asked: Asked) -> httpx.Response:
        id, reading = asked.id, asked.query(Reading)
        found = self._jobs.events(id, reading.after)
        if asked.streamed:
            return stream(reading.after, lambda after: self._happened(id, after))
        page = found[: reading.limit]
        last = page[-1].seq if page else reading.after
        ended = self._jobs.look(id).state in TERMINAL and len(page) == len(found)
        return answer(200, EventPage(data=tuple(page), next_after=last, ended=ended))

    def _happened(self, id: UUID, after: int) -> tuple[Sequence[tuple[str, int, BaseModel]], bool]:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs.events(id, after) or self._over(id), _HEARTBEAT_SECONDS)
            return [(each.type, each.seq, each) for each in self._jobs.events(id, after)], self._over(id)

    def _log(self, asked: Asked) -> httpx.Response:
        id, reading = asked.id, asked.query(Reading)
        attempt, found = self._jobs.log(id, reading.attempt, reading.after)
        if asked.streamed or reading.follow:
            return stream(reading.after, lambda after: self._said(id, attempt, after))
        last = found[-1].seq if found else reading.after
        return answer(200, LogPage(attempt=attempt, data=tuple(found), next_after=last, ended=self._over(id)))

    def _said(self, id: UUID, attempt: int, after: int) -> tuple[Sequence[tuple[str, int, BaseModel]], bool]:
        with self._changed:
            self._changed.wait_for(lambda: self._over(id), _HEARTBEAT_SECONDS)
            _, found = self._jobs.log(id, attempt, after)
            return [("log", each.seq, each) for each in found], self._over(id)

    def _made(self, asked: Asked) -> httpx.Response:
        return answer(200, MadeFiles(data=tuple(self._artefacts.made(self._jobs.look(asked.id).id))))

    def _why(self, asked: Asked) -> httpx.Response:
        return answer(200, self._jobs.why(asked.id))

    # --- artefacts --------------------------------------------------------------------------------------------

    def _announce(self, asked: Asked) -> httpx.Response:
        return self._once(asked, 201, lambda: _always(self._artefacts.announce(asked.body(NewArtefact))))

    def _announce_tree(self, asked: Asked) -> httpx.Response:
        return self._once(asked, 201, lambda: _always(self._artefacts.announce_tree(asked.body(NewTree))))

    def _missing(self, asked: Asked) -> httpx.Response:
        return answer(200, self._artefacts.missing(asked.id, asked.query(Reading).limit))

    def _complete(self, asked: Asked) -> httpx.Response:
        return answer(200, self._artefacts.complete(asked.id))

    def _artefact(self, asked: Asked) -> httpx.Response:
        return answer(200, self._artefacts.look(asked.id))

    def _content(self, asked: Asked) -> httpx.Response:
        return httpx.Response(307, headers={"Location": self._artefacts.link_to(asked.id)})

    def _manifest(self, asked: Asked) -> httpx.Response:
        wanted = asked.query(Reading)
        return answer(200, self._artefacts.manifest(asked.id, wanted.after, wanted.limit, links=wanted.links))

    def _zip(self, asked: Asked) -> httpx.Response:
        return content(asked.request, self._artefacts.zip(asked.id), "application/zip")

    def _put(self, asked: Asked) -> httpx.Response:
        kept = self._artefacts.put(asked.id, asked.names[1], asked.request.content)
        return httpx.Response(200 if kept else 400)

    def _get(self, asked: Asked) -> httpx.Response:
        data = self._artefacts.get(asked.id, asked.names[1])
        if data is None:
            return httpx.Response(404)
        return content(asked.request, data, "application/octet-stream")

    # --- the rest ---------------------------------------------------------------------------------------------

    def _me(self, _asked: Asked) -> httpx.Response:
        team = Team(id=UUID(int=0), name=WORKER, created_at=self._started_at)
        return answer(200, Me(team=team, role=Role.ADMIN, prefix=WORKER))

    def _list_models(self, asked: Asked) -> httpx.Response:
        wanted = asked.query(Listing)
        return answer(200, self._models.page(wanted.cursor, wanted.limit))

    def _model(self, asked: Asked) -> httpx.Response:
        return answer(200, self._models.look(asked.names[0]))

    def _delete_model(self, asked: Asked) -> httpx.Response:
        return answer(200, self._models.delete(asked.names[0]))

    def _point(self, asked: Asked) -> httpx.Response:
        return answer(200, self._models.point(*asked.names))

    def _unpoint(self, asked: Asked) -> httpx.Response:
        self._models.unpoint(*asked.names)
        return httpx.Response(204)

    def _pools(self, _asked: Asked) -> httpx.Response:
        every = self._jobs.every()
        waits = {kind: sum(job.kind == kind and job.state not in TERMINAL for job in every) for kind in self._kinds}
        load = [
            Load(kind=kind, queued=count, running=0, queued_of_all=count, running_of_all=0)
            for kind, count in waits.items()
            if count
        ]
        workers = [
            Worker(
                id=uuid4(),
                name=WORKER,
                device=device,
                kinds=tuple(kinds),
                slots=1,
                running=0,
                draining=False,
                silent_seconds=0,
                started_at=self._started_at,
            )
            for device in sorted({KINDS[kind].device for kind in self._kinds})
            if (kinds := [kind for kind in self._kinds if KINDS[kind].device is device])
        ]
        pool = Pool(name=_POOL, created_at=self._started_at, workers=tuple(workers), load=tuple(load))
        return answer(200, Pools(data=(pool,)))

    # --- within -----------------------------------------------------------------------------------------------

    def _accept(self, asked: Asked, submit: Callable[[], Callable[[], BaseModel]]) -> httpx.Response:
        """Answer a submission, and only then run what was submitted, unless the answer is to wait for that."""
        before = len(self._jobs.every())
        reply = self._once(asked, 202, submit)
        new = self._jobs.every()[: len(self._jobs.every()) - before]
        self._run()
        if len(new) == 1:
            reply.headers["Location"] = f"/v1/jobs/{new[0].id}"
            if asked.query(Reading).wait:
                return answer(202, self._after(asked, new[0].id), Location=reply.headers["Location"])
        return reply

    def _once(self, asked: Asked, status: int, work: Callable[[], Callable[[], BaseModel]]) -> httpx.Response:
        """Do a request's work, or where its Idempotency-Key was used before, show what that brought."""
        key = asked.request.headers.get("Idempotency-Key", uuid4().hex)
        request = f"{asked.request.url.path} ".encode() + asked.request.content
        digest = hashlib.sha256(request).hexdigest()
        if key not in self._answered:
            self._answered[key] = (digest, status, work())
        known, status, show = self._answered[key]
        if known != digest:
            raise IdempotencyMismatch
        return answer(status, show())

    def _after(self, asked: Asked, id: UUID) -> Job:
        """The job once it has ended, or after as long as the request is ready to wait."""
        self._changed.wait_for(lambda: self._over(id), asked.query(Reading).wait)
        return self._jobs.look(id)

    def _over(self, id: UUID) -> bool:
        return self._jobs.look(id).state in TERMINAL

    def _same(self, job: Job) -> Callable[[], Job]:
        return lambda: self._jobs.look(job.id)


def _always(shown: BaseModel) -> Callable[[], BaseModel]:
    return lambda: shown


def _handler(doer: Handler | Result | VLyardError) -> Handler:
    def give(_spec: Spec, _files: Files) -> Result:
        if isinstance(doer, VLyardError):
            raise doer
        assert isinstance(doer, Result)
        return doer

    return give if isinstance(doer, Result | VLyardError) else doer


def _label(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not name or not colon:
        raise InvalidInput(complaints=[Complaint("/query/label", f"{text!r} is no label", "write it as key:value")])
    return name, value


_JOB, _FILE = "/v1/jobs/([0-9a-fA-F-]{36})", "/v1/artefacts/([0-9a-fA-F-]{36})"
_WORD = "([^/]+)"
_MODEL = "/v1/models/([^/]+/[^/]+)"
_OBJECT = "/objects/([0-9a-fA-F-]{36})/([0-9a-f]{64})"
# fmt: off
_ROUTES: Sequence[tuple[str, str, Callable[[InProcess, Asked], httpx.Response]]] = (
    ("POST", "/v1/jobs", InProcess._submit),
    ("POST", "/v1/jobs:batch", InProcess._submit_batch),
    ("GET", "/v1/jobs", InProcess._list),
    ("GET", _JOB, InProcess._look),
    ("GET", f"{_JOB}/why", InProcess._why),
    ("GET", f"{_JOB}/events", InProcess._events),
    ("GET", f"{_JOB}/logs", InProcess._log),
    ("GET", f"{_JOB}/artefacts", InProcess._made),
    ("POST", f"{_JOB}/cancel", InProcess._cancel),
    ("POST", f"{_JOB}/retry", InProcess._retry),
    ("POST", f"{_JOB}/clone", InProcess._clone),
    ("POST", f"{_JOB}/priority", InProcess._reprioritise),
    ("POST", "/v1/artefacts", InProcess._announce),
    ("POST", "/v1/artefacts:tree", InProcess._announce_tree),
    ("GET", _FILE, InProcess._artefact),
    ("GET", f"{_FILE}/upload", InProcess._missing),
    ("POST", f"{_FILE}/complete", InProcess._complete),
    ("GET", f"{_FILE}/content", InProcess._content),
    ("GET", f"{_FILE}/manifest", InProcess._manifest),
    ("GET", f"{_FILE}/zip", InProcess._zip),
    ("PUT", _OBJECT, InProcess._put),
    ("GET", _OBJECT, InProcess._get),
    ("GET", "/v1/models", InProcess._list_models),
    ("GET", _MODEL, InProcess._model),
    ("DELETE", _MODEL, InProcess._delete_model),
    ("PUT", f"{_MODEL}/aliases/{_WORD}", InProcess._point),
    ("DELETE", f"{_MODEL}/aliases/{_WORD}", InProcess._unpoint),
    ("GET", "/v1/me", InProcess._me),
    ("GET", "/v1/pools", InProcess._pools),
)
# fmt: on
