"""The VLyard in memory answers as the real API does: one scenario, run against both, compared word by word."""

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import BaseModel
from uuid_utils.compat import uuid7

from control.artefacts import ArtefactStore
from control.lifecycle import Ending, finish
from control.rules import rules_from
from control.settings import Settings
from db import leases, logs, queue, workers
from db.models import Job, Outcome
from db.session import Database
from tests.api.conftest import Join
from tests.api.serving import serving
from vlyard import Client, ConversionSpec, InferenceSpec, InProcess, NoopResult, NoopSpec
from vlyard.client.in_process import Files
from vlyard.errors import Blame, InvalidInput, VLyardError
from vlyard.jobs.kinds import Device
from vlyard.jobs.spec import Spec
from vlyard.jobs.view import Changes, Entry, Failure, Progress

OUTPUT = b"what the job made"


def handler(spec: NoopSpec, files: Files) -> NoopResult:
    """What `RealWorker` does, in the process."""
    files.say(f"asked to say {spec.echo!r}")
    files.progress(0.5, "half")
    if spec.fail:
        raise InvalidInput(spec.fail)
    made = files.add("said.txt", OUTPUT, "text/plain")
    return NoopResult(echo=spec.echo, attempt=1, artefacts={"said": made})


class RealWorker:
    """Does every queued job of a team as a dispatcher and a worker would."""

    def __init__(self, database: Database, settings: Settings, team: UUID) -> None:
        self._database = database
        self._rules = rules_from(settings)
        self._store = ArtefactStore(settings)
        self._team = team

    def go(self) -> None:
        with self._database.transaction() as session:
            holder = workers.register(
                session, name="in-process", pool="default", device=Device.CPU, kinds=["noop"], slots=1, gpus=[]
            )
            waiting = session.query(Job).filter_by(team_id=self._team, state="queued")
            jobs = waiting.order_by(Job.priority.desc(), Job.id).all()
            specs = {job.id: NoopSpec.model_validate(job.spec) for job in jobs}
        for job, spec in specs.items():
            self._do(holder, job, spec)
        with self._database.transaction() as session:
            workers.end(session, holder)

    def _do(self, holder: UUID, job: UUID, spec: NoopSpec) -> None:
        pair, made = (job, 1), uuid7()
        key = f"teams/{self._team}/jobs/{job}/said.txt"
        self._store.put_bytes(key, OUTPUT, "text/plain")
        with self._database.transaction() as session:
            queue.dispatch(session, [[job]])
        with self._database.transaction() as session:
            assert leases.claim(session, holder, [pair], 30)
        with self._database.transaction() as session:
            logs.append(session, holder, [logs.Piece(job, 1, 1, f"asked to say {spec.echo!r}\n")])
            progress = Progress(fraction=0.5, text="half").model_dump(mode="json")
            leases.record_progress(session, holder, pair, progress)
        artefact = {"id": made, "name": "said.txt", "media_type": "text/plain", "bytes": len(OUTPUT), "key": key}
        artefact |= {"sha256": hashlib.sha256(OUTPUT).hexdigest()}
        result = NoopResult(echo=spec.echo, attempt=1, artefacts={"said": made}).model_dump(mode="json")
        ending = Ending(pair, Outcome.SUCCEEDED, result, artefacts=[artefact])
        if spec.fail:
            why = Failure(code="invalid_input", message=spec.fail, blame=Blame.USER)
            ending = Ending(pair, Outcome.FAILED, failure=why)
        with self._database.transaction() as session:
            assert finish(session, holder, [ending], self._rules)


# --- the scenario ---------------------------------------------------------------------------------------------


def scenario(client: Client, http: httpx.Client, go: Callable[[], None], folder: Path) -> Iterator[tuple[str, Any]]:
    """Everything that the VLyard in memory serves, step by step, with what came of each."""
    (folder / "in" / "deep").mkdir(parents=True)
    (folder / "in" / "a.txt").write_text("a")
    (folder / "in" / "deep" / "b.txt").write_text("b" * 1000)
    job = client.submit(NoopSpec(echo="hello"), labels={"run": "1"}, priority=3, max_runtime=60)
    yield "submitted", job
    yield (
        "submitted again",
        client.submit(NoopSpec(echo="once"), idempotency_key="contract").id
        == client.submit(NoopSpec(echo="once"), idempotency_key="contract").id,
    )
    yield "another body", refused(lambda: client.submit(NoopSpec(echo="other"), idempotency_key="contract"))
    cancelled = client.submit(NoopSpec())
    yield "moved", client.reprioritise(cancelled.id, -5)
    yield "cancelled", client.cancel(cancelled.id)
    yield "cancelled twice", refused(lambda: client.cancel(cancelled.id))
    yield "retried too early", refused(lambda: client.retry(job.id))
    yield "events so far", plain(http.get(f"/v1/jobs/{job.id}/events"))
    failing = client.submit(NoopSpec(fail="as it was told to"))
    go()
    yield "succeeded", client.job(job.id)
    yield "result", client.result(client.wait(job.id))
    yield "failed", client.job(failing.id)
    yield "its result", refused(lambda: client.result(client.job(failing.id)))
    yield "why it failed", client.why(failing.id)
    yield "why it succeeded", client.why(job.id)
    yield "moved too late", refused(lambda: client.reprioritise(job.id, 1))
    yield "events", list(client.events(job.id))
    yield "events of the failed one", list(client.events(failing.id))
    yield "events of the cancelled one", list(client.events(cancelled.id, after=1))
    yield "a page of events", plain(http.get(f"/v1/jobs/{job.id}/events", params={"limit": "2"}))
    yield "log", list(client.log(job.id))
    yield "a page of the log", plain(http.get(f"/v1/jobs/{job.id}/logs"))
    yield "log, followed", list(client.log(job.id, follow=True))
    yield "files", client.artefacts(job.id)
    yield "a file", client.download(client.artefacts(job.id)[0].id, folder / "said.txt").read_bytes()
    yield "cloned", client.clone(job.id, Changes(spec={"echo": None}, labels={}))
    yield "cloned wrongly", refused(lambda: client.clone(job.id, Changes(spec={"ecko": 1})))
    yield "cloned into nothing", refused(lambda: client.clone(job.id, Changes(spec={"kind": "bake"})))
    yield "retried", client.retry(failing.id)
    yield "many", client.submit_many([Entry(spec=NoopSpec(echo=text)) for text in "xyz"])
    go()
    yield "list", list(client.jobs())
    yield "list by label", [listed.id for listed in client.jobs(labels={"run": "1"})]
    yield "list by state", [listed.id for listed in client.jobs(state="failed")]
    yield "a page", plain(http.get("/v1/jobs", params={"limit": "2"}))
    yield "no such job", refused(lambda: client.job(UUID(int=7)))
    yield "models", list(client.models())
    yield "a page of models", plain(http.get("/v1/models", params={"limit": "1"}))
    yield "no such model", refused(lambda: client.model("vision/street:1"))
    yield "no such artefact", refused(lambda: client.artefact(UUID(int=7)))
    yield from bad_requests(http)
    yield from uploads(client, http, folder)
    yield from waiting(client, http, folder)


def bad_requests(http: httpx.Client) -> Iterator[tuple[str, Any]]:
    bodies: tuple[Any, ...] = (
        {"spec": {"kind": "bake"}},
        {"spec": {}},
        {"spec": {"kind": "noop", "ecko": "a"}, "priority": 1000},
        {"spec": {"kind": "noop", "seconds": "soon"}},
        {"spec": {"kind": "noop"}, "pool": "nowhere"},
        [],
    )
    for body in bodies:
        yield f"{body}", plain(http.post("/v1/jobs", json=body))
    yield "no body", plain(http.post("/v1/jobs"))
    yield "no JSON", plain(http.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}))
    jobs: tuple[Any, ...] = ({"jobs": []}, {"jobs": [{"spec": {"kind": "noop", "ecko": "a"}}]}, BATCH_TO_NOWHERE)
    for body in jobs:
        yield f"{body}", plain(http.post("/v1/jobs:batch", json=body))
    for query in ({"limit": "0"}, {"state": "done"}, {"kind": "bake"}, {"label": "a"}):
        yield f"{query}", plain(http.get("/v1/jobs", params=query))
    yield "no key", plain(http.get("/v1/jobs", headers={"Authorization": ""}))


BATCH_TO_NOWHERE = {"jobs": [{"spec": {"kind": "noop"}}, {"spec": {"kind": "noop"}, "pool": "nowhere"}]}


def uploads(client: Client, http: httpx.Client, folder: Path) -> Iterator[tuple[str, Any]]:
    file = client.upload(folder / "in" / "a.txt", "named.txt")
    yield "uploaded", file
    yield "looked at", client.artefact(file.id)
    yield "fetched", client.download(file.id, folder / "back.txt").read_bytes()
    yield "its files", refused(lambda: list(client.files(file.id)))
    yield "its content", http.get(f"/v1/artefacts/{file.id}/content").status_code
    tree = client.upload_tree(folder / "in")
    yield "uploaded a folder", tree
    yield "its files too", list(client.files(tree.id))
    back = client.download(tree.id, folder / "back")
    yield "fetched a folder", {str(path.relative_to(back)): path.read_text() for path in sorted(back.rglob("*.txt"))}
    packed = zipfile.ZipFile(client.download(tree.id, folder / "all.zip", as_zip=True))
    yield "fetched it as a zip", {name: packed.read(name).decode() for name in packed.namelist()}
    body = {"name": "n", "bytes": 1, "sha256": "0" * 64, "media_type": "text/plain"}
    announced = http.post("/v1/artefacts", json=body).json()
    yield "announced", {**announced, "upload": sorted(announced["upload"])}
    yield "completed too early", plain(http.post(f"/v1/artefacts/{announced['id']}/complete"))
    yield "fetched too early", refused(lambda: client.download(announced["id"], folder / "never"))
    yield "announced wrongly", plain(http.post("/v1/artefacts", json={**body, "bytes": -1}))


def waiting(client: Client, http: httpx.Client, folder: Path) -> Iterator[tuple[str, Any]]:
    source = str(client.upload(folder / "in" / "a.txt").id)

    def batch(*sources: str) -> httpx.Response:
        specs = [{"kind": "conversion", "source": each} for each in sources]
        entries = [{"name": f"e{at}", "spec": spec} for at, spec in enumerate(specs)]
        return http.post("/v1/jobs:batch", json={"jobs": entries})

    yield "a name that no entry has", plain(batch(source, "ref:e7/dataset"))
    yield "a circle", plain(batch("ref:e1/dataset", "ref:e0/dataset", source))
    yield (
        "what waits for a circle",
        plain(batch("ref:e2/dataset", "ref:e0/dataset", "ref:e1/dataset", "ref:e0/dataset")),
    )
    yield "itself", plain(batch("ref:e0/dataset"))
    named = [{"kind": "inference", "image": source, "prompt": "What?", "model": model} for model in ("a/b:1", "a/b")]
    for spec in named:
        yield f"a model that there is not: {spec['model']}", plain(http.post("/v1/jobs", json={"spec": spec}))
    yield "no such job", plain(batch(f"job:{UUID(int=7)}/dataset"))
    twice = [{"name": "a", "spec": {"kind": "noop"}}] * 2
    yield "one name for two", plain(http.post("/v1/jobs:batch", json={"jobs": twice}))
    yield "no such file", plain(batch(str(UUID(int=7))))
    reply = batch(source, "ref:e0/dataset", "ref:e1/dataset")
    first, second, third = (job["id"] for job in reply.json()["data"])
    yield "accepted", plain(reply)
    yield "blocked", client.job(third)
    yield "moved while blocked", client.reprioritise(third, 7).priority
    yield "why it is blocked", client.why(third).model_dump(exclude={"since"})
    yield "cancelled", client.cancel(first)
    yield "failed with it", [client.job(job) for job in (second, third)]
    yield "why it failed with it", client.why(third)
    yield "its events", list(client.events(third))
    yield "no such output", plain(batch(f"job:{first}/dataset"))


# --- what is compared -----------------------------------------------------------------------------------------


def plain(reply: httpx.Response) -> tuple[int, str, Any]:
    body = reply.json()
    body.pop("request_id", None)
    return reply.status_code, reply.headers["Content-Type"], body


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(VLyardError) as caught:
        call()
    return type(caught.value).__name__, str(caught.value)


def told(step: Any) -> str:
    """What came of a step, as JSON. PostgreSQL keeps the members of an object in an order of its own."""

    def shown(value: Any) -> Any:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)

    return json.dumps(step, default=shown, sort_keys=True)


def compared(steps: Iterator[tuple[str, Any]]) -> list[tuple[str, str]]:
    """The steps in words that no run has to itself: ids by the order in which they came, no times, no addresses."""
    met: dict[str, str] = {}
    found = []
    for name, step in steps:
        text = re.sub(_TIME, "<time>", re.sub(r"http://[^\"]+", "<link>", told(step)))
        found.append((name, re.sub(_UUID, lambda match: met.setdefault(match[0], f"<id {len(met)}>"), text)))
    return found


_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z| UTC)?"


def test_one_scenario_says_the_same_in_the_process_and_over_http(
    api_settings: Settings, database: Database, join: Join, tmp_path: Path
) -> None:
    # given the real API with somebody who works there, and one in memory
    visitor = join()
    worker = RealWorker(database, api_settings, visitor.team)
    doers: dict[type[Spec], Any] = {NoopSpec: handler}
    doers |= dict.fromkeys((ConversionSpec, InferenceSpec), InvalidInput("not here"))
    memory = InProcess(doers, held=True)

    def go_once() -> None:
        memory.go()
        memory.hold()

    # when both go through the same scenario
    headers = {"Authorization": f"Bearer {visitor.key}"}
    with (
        serving(api_settings) as url,
        Client(url, visitor.key) as client,
        httpx.Client(base_url=url, headers=headers, trust_env=False) as http,
    ):
        real = compared(scenario(client, http, worker.go, tmp_path / "real"))
    with (
        Client(transport=memory) as client,
        httpx.Client(base_url=memory.url, headers=headers, transport=memory) as http,
    ):
        imitated = compared(scenario(client, http, go_once, tmp_path / "memory"))
    # then they are told the same, word by word
    for mine, theirs in zip(imitated, real, strict=True):
        assert mine == theirs
    assert len(real) > 50
