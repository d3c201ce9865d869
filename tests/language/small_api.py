"""A small VLyard API and a small S3 in one real HTTP server on a free loopback port, with faults on demand.

It keeps jobs and artefacts in memory and speaks as the real API does. A test tells it beforehand how a job's life
goes, and which requests go wrong and how; afterwards it knows every request that came.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID, uuid4

from tests.loopback import listening
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.state import State
from vlyard.jobs.view import Accepted, Artefact, Batch, Job, NewArtefact, Page, Submission, Upload

KEY = "vly_test"
PAGE = 2  # jobs on a page


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request: another reply, or only so many bytes of the right one."""

    reply: Reply | None = None
    cut_after: int | None = None


def problem(status: int, code: str, detail: str, *, after: int = 0, **more: Any) -> Reply:
    """A problem document; `after` is what its Retry-After asks for, in seconds."""
    document = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code, **more}
    headers = {"Content-Type": "application/problem+json"} | ({"Retry-After": str(after)} if after else {})
    return Reply(status, json.dumps(document).encode(), headers)


@dataclass
class SmallApi:
    url: str = ""
    life: list[dict[str, Any]] = field(default_factory=lambda: [{"state": "queued"}])  # one step for each look
    asked: list[Asked] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)  # by "METHOD /first/folders", used up in order
    jobs: dict[UUID, Job] = field(default_factory=dict)
    looks: dict[UUID, int] = field(default_factory=dict)
    artefacts: dict[UUID, Artefact] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    replies: dict[str, Reply] = field(default_factory=dict)  # by Idempotency-Key

    def answer(self, asked: Asked) -> Reply:
        if asked.path.startswith("/s3/"):
            return self._s3(asked)
        if asked.headers["Authorization"] != f"Bearer {KEY}":
            return problem(401, "unauthenticated", "The request carries no valid API key.")
        if asked.method == "POST":
            key = asked.headers["Idempotency-Key"]
            if key not in self.replies:
                self.replies[key] = self._route(asked)
            return self.replies[key]
        return self._route(asked)

    def _route(self, asked: Asked) -> Reply:
        resource, id, verb = [*asked.path.removeprefix("/v1/").split("/"), "", ""][:3]
        routes: dict[tuple[str, str, bool, str], Callable[[], Reply]] = {
            ("POST", "jobs", False, ""): lambda: self._submit(asked),
            ("POST", "jobs:batch", False, ""): lambda: self._submit_many(asked),
            ("POST", "jobs", True, "retry"): lambda: self._repeat(UUID(id), {}),
            ("POST", "jobs", True, "clone"): lambda: self._repeat(UUID(id), json.loads(asked.body)),
            ("POST", "jobs", True, "priority"): lambda: self._reprioritise(
                UUID(id), json.loads(asked.body)["priority"]
            ),
            ("GET", "jobs", False, ""): lambda: self._list(asked),
            ("GET", "jobs", True, ""): lambda: self._look(UUID(id)),
            ("POST", "jobs", True, "cancel"): lambda: self._cancel(UUID(id)),
            ("POST", "artefacts", False, ""): lambda: self._create(asked),
            ("POST", "artefacts", True, "complete"): lambda: self._complete(UUID(id)),
            ("GET", "artefacts", True, ""): lambda: self._artefact(UUID(id)),
        }
        route = routes.get((asked.method, resource, bool(id), verb))
        return route() if route else problem(404, "not_found", f"There is no {asked.path}.")

    def add_job(self, **fields: Any) -> Job:
        now = datetime.now(UTC)
        spec = {"kind": "noop"}
        known = {"id": uuid4(), "kind": "noop", "state": "queued", "pool": "default", "device": "cpu", "priority": 0}
        job = Job.model_validate({**known, "spec": spec, "attempt": 0, "created_at": now, **fields})
        self.jobs[job.id] = job
        return job

    def _submit(self, asked: Asked) -> Reply:
        return Reply(202, self._accept(Submission.model_validate_json(asked.body)).model_dump_json().encode())

    def _submit_many(self, asked: Asked) -> Reply:
        accepted = Accepted(data=tuple(map(self._accept, Batch.model_validate_json(asked.body).jobs)))
        return Reply(202, accepted.model_dump_json().encode())

    def _accept(self, wanted: Submission) -> Job:
        kind = wanted.spec.model_dump()["kind"]
        spec = wanted.spec.model_dump(mode="json")
        facts = wanted.model_dump(include={"pool", "priority", "labels"})
        return self.add_job(kind=kind, spec=spec, device=KINDS[kind].device, **facts)

    def _repeat(self, id: UUID, changes: Mapping[str, Any]) -> Reply:
        known = self.jobs[id].model_dump(mode="json", include={"kind", "spec", "pool", "priority", "labels"})
        known["spec"] |= changes.get("spec", {})
        given = {name: value for name, value in changes.items() if name != "spec" and value is not None}
        return Reply(202, self.add_job(**(known | given), cloned_from=id).model_dump_json().encode())

    def _reprioritise(self, id: UUID, priority: int) -> Reply:
        self.jobs[id] = self.jobs[id].model_copy(update={"priority": priority})
        return Reply(200, self.jobs[id].model_dump_json().encode())

    def _list(self, asked: Asked) -> Reply:
        kept = [job for job in self.jobs.values() if asked.query.get("state") in {None, job.state}]
        start = int(asked.query.get("cursor", 0))
        more = start + PAGE < len(kept)
        page = Page(data=tuple(kept[start : start + PAGE]), next_cursor=str(start + PAGE) if more else None)
        return Reply(200, page.model_dump_json().encode())

    def _look(self, id: UUID) -> Reply:
        if id not in self.jobs:
            return problem(404, "not_found", f"There is no job {id}.")
        step = self.looks.get(id, 0)
        self.looks[id] = step + 1
        if self.jobs[id].state == "queued":
            known = self.jobs[id].model_dump() | self.life[min(step, len(self.life) - 1)]
            return Reply(200, Job.model_validate(known).model_dump_json().encode())
        return Reply(200, self.jobs[id].model_dump_json().encode())

    def _cancel(self, id: UUID) -> Reply:
        if self.jobs[id].state != "queued":
            return problem(409, "conflict", f"Job {id} has ended.")
        self.jobs[id] = self.jobs[id].model_copy(update={"state": State.CANCELLED})
        return Reply(202, self.jobs[id].model_dump_json().encode())

    def add_artefact(self, name: str, content: bytes, **fields: Any) -> Artefact:
        id = uuid4()
        self.objects[f"/s3/{id}"] = content
        known = {"id": id, "name": name, "media_type": "text/plain", "bytes": len(content), "state": "ready"}
        sha256 = hashlib.sha256(content).hexdigest()
        record = {**known, "sha256": sha256, "created_at": datetime.now(UTC), **fields}
        self.artefacts[id] = Artefact.model_validate(record)
        return self.artefacts[id]

    def _create(self, asked: Asked) -> Reply:
        wanted = NewArtefact.model_validate_json(asked.body)
        artefact = self.add_artefact(wanted.name, b"", **wanted.model_dump(exclude={"name"}), state="pending")
        del self.objects[f"/s3/{artefact.id}"]
        upload = Upload(url=f"{self.url}/s3/{artefact.id}?signature=s", headers=self._signed(artefact), expires_in=60)
        return Reply(201, artefact.model_copy(update={"upload": upload}).model_dump_json().encode())

    def _signed(self, artefact: Artefact) -> dict[str, str]:
        checksum = b64encode(bytes.fromhex(artefact.sha256)).decode()
        return {"Content-Type": artefact.media_type, "x-amz-checksum-sha256": checksum}

    def _complete(self, id: UUID) -> Reply:
        artefact = self.artefacts[id]
        content = self.objects.get(f"/s3/{id}", b"")
        if (len(content), hashlib.sha256(content).hexdigest()) != (artefact.bytes, artefact.sha256):
            return problem(422, "invalid_input", "The upload has other bytes than it was announced with.")
        self.artefacts[id] = artefact.model_copy(update={"state": "ready"})
        return Reply(200, self.artefacts[id].model_dump_json().encode())

    def _artefact(self, id: UUID) -> Reply:
        artefact = self.artefacts[id]
        link = f"{self.url}/s3/{id}?signature=s" if artefact.state == "ready" else None
        return Reply(200, artefact.model_copy(update={"download_url": link}).model_dump_json().encode())

    def _s3(self, asked: Asked) -> Reply:
        if "Authorization" in asked.headers:  # S3 refuses a signed URL that comes with another authorisation
            return Reply(400, b"<Error><Code>InvalidArgument</Code></Error>")
        if asked.method == "PUT":
            signed = self._signed(self.artefacts[UUID(asked.path.removeprefix("/s3/"))])
            if any(asked.headers[name] != value for name, value in signed.items()):
                return Reply(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
            self.objects[asked.path] = asked.body
            return Reply(200)
        return Reply(200, self.objects[asked.path])


@contextmanager
def serving(api: SmallApi) -> Iterator[SmallApi]:
    """Serve the API on a free loopback port while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._handle()

        def do_POST(self) -> None:
            self._handle()

        def do_PUT(self) -> None:
            self._handle()

        def do_DELETE(self) -> None:
            self._handle()

        def _handle(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, url.path, dict(parse_qsl(url.query)), self.headers, body)
            api.asked.append(asked)
            fault = _next_fault(api, asked)
            reply = fault.reply or api.answer(asked)
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body[: fault.cut_after])
            self.close_connection = fault.cut_after is not None

    with listening(Handler) as api.url:
        yield api


def _next_fault(api: SmallApi, asked: Asked) -> Fault:
    for start, faults in api.faults.items():
        if faults and f"{asked.method} {asked.path}".startswith(start):
            return faults.pop(0)
    return Fault()
