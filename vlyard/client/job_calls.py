"""The client's calls about jobs: submitting, looking, waiting, results, events, logs, and why they wait."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypedDict, Unpack, overload
from uuid import UUID

from pydantic import ValidationError

from vlyard.client.connection import Connection, checked, checked_id, parsed
from vlyard.client.following import follow_stream
from vlyard.errors import Cancelled, Conflict, JobFailed, VLyardError, WaitTimeout
from vlyard.jobs.conversion import ConversionResult, ConversionSpec
from vlyard.jobs.evaluation import EvaluationResult, EvaluationSpec
from vlyard.jobs.events import Event
from vlyard.jobs.export import ExportResult, ExportSpec
from vlyard.jobs.importing import ImportResult, ImportSpec
from vlyard.jobs.inference import InferenceResult, InferenceSpec
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.noop import NoopResult, NoopSpec
from vlyard.jobs.output import LogPage, LogPiece
from vlyard.jobs.prediction import PredictionResult, PredictionSpec
from vlyard.jobs.spec import Result, Spec
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.training import TrainingResult, TrainingSpec
from vlyard.jobs.training_check import TrainingCheckResult, TrainingCheckSpec
from vlyard.jobs.verification import VerificationResult, VerificationSpec
from vlyard.jobs.view import Accepted, Batch, Changes, Entry, Job, NewPriority, Page, Submission
from vlyard.jobs.why import Why

POLL, POLL_WITH_PROGRESS = 30.0, 1.0  # seconds that one look at a job waits for its end


class How(TypedDict, total=False):
    """How `Client.run` has a job done."""

    pool: str
    priority: int
    labels: Mapping[str, str] | None
    expires_in: float | None
    expires_at: datetime | None
    max_runtime: float | None
    timeout: float | None
    on_progress: Callable[[Job], None] | None
    idempotency_key: str | None


class JobCalls(Connection):
    """Jobs."""

    def submit(
        self,
        spec: Spec,
        *,
        pool: str = "default",
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        expires_in: float | None = None,
        expires_at: datetime | None = None,
        max_runtime: float | None = None,
        wait: float = 0.0,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job, and give it up to `wait` seconds (60 at most) to end before the answer comes.

        It fails where it was not started within `expires_in` seconds, or before `expires_at`; `max_runtime` are the
        seconds that an attempt may run. The same `idempotency_key` with the same job gives the same job again, also
        from another process.
        """
        asked = {"pool": pool, "priority": priority, "labels": dict(labels or {})}
        limits = {"expires_in": expires_in, "expires_at": expires_at, "max_runtime": max_runtime}
        body = checked(Submission, "the submission", spec=spec, **asked, **limits)
        return self._call(Job, "POST", "/v1/jobs", body=body, key=idempotency_key, wait=wait)

    def submit_many(self, entries: Sequence[Entry], *, idempotency_key: str | None = None) -> Sequence[Job]:
        """Submit up to 1,000 jobs, all or none, which may name each other's outputs; returns them in their order."""
        body = checked(Batch, "the batch", jobs=tuple(entries))
        return self._call(Accepted, "POST", "/v1/jobs:batch", body=body, key=idempotency_key).data

    def job(self, id: UUID | str, wait: float = 0.0) -> Job:
        """Look at a job, after up to `wait` seconds (60 at most) if it has not ended before."""
        return self._call(Job, "GET", f"/v1/jobs/{checked_id(id)}", wait=wait)

    def jobs(
        self,
        state: State | str | None = None,
        kind: str | None = None,
        *,
        pool: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[Job]:
        """All jobs of the team, the youngest first, fetched page by page as the iteration goes.

        Only those in that state, of that kind, in that pool and with all those labels, where they are given.
        """
        given = {"state": state, "kind": kind, "pool": pool}
        asked: dict[str, str | list[str]] = {name: str(value) for name, value in given.items() if value is not None}
        if labels:
            asked["label"] = [f"{name}:{value}" for name, value in labels.items()]
        page = self._call(Page, "GET", "/v1/jobs", params=asked)
        yield from page.data
        while page.next_cursor is not None:
            page = self._call(Page, "GET", "/v1/jobs", params={**asked, "cursor": page.next_cursor})
            yield from page.data

    def why(self, id: UUID | str) -> Why:
        """Why a job is where it is: what it waits for, its place in the line, its last error, what to do about it."""
        return self._call(Why, "GET", f"/v1/jobs/{checked_id(id)}/why")

    def cancel(self, id: UUID | str) -> Job:
        """Ask for a job to be stopped; the answer may come before it stops. Raises `Conflict` if it has ended."""
        return self._call(Job, "POST", f"/v1/jobs/{checked_id(id)}/cancel")

    def retry(self, id: UUID | str, *, idempotency_key: str | None = None) -> Job:
        """Submit an ended job once more; returns the new one. Raises `Conflict` while it has not ended."""
        return self._call(Job, "POST", f"/v1/jobs/{checked_id(id)}/retry", key=idempotency_key)

    def clone(self, id: UUID | str, changes: Changes | None = None, *, idempotency_key: str | None = None) -> Job:
        """Submit a job, in whatever state, once more with changes; returns the new one."""
        path = f"/v1/jobs/{checked_id(id)}/clone"
        return self._call(Job, "POST", path, body=changes or Changes(), key=idempotency_key)

    def reprioritise(self, id: UUID | str, priority: int) -> Job:
        """Give a waiting job another priority, -100 to 100. Raises `Conflict` once it has left the queue."""
        body = checked(NewPriority, "the priority", priority=priority)
        return self._call(Job, "POST", f"/v1/jobs/{checked_id(id)}/priority", body=body)

    def wait(
        self, id: UUID | str, *, timeout: float | None = None, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Wait until a job has ended, however it did, and return it then.

        `on_progress` is called with the job at first and then each time its state, attempt or progress changed,
        looked at once a second. Raises `WaitTimeout` after `timeout` seconds; the job goes on.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        longest = POLL_WITH_PROGRESS if on_progress else POLL
        wait, told = 0.0 if on_progress else longest, None
        while True:
            left = longest if give_up is None else give_up - time.monotonic()
            job = self.job(id, wait=max(0.0, min(wait, left)))
            if on_progress and told != (told := (job.state, job.attempt, job.progress)):
                on_progress(job)
            if job.state in TERMINAL:
                return job
            if give_up is not None and time.monotonic() >= give_up:
                raise WaitTimeout(f"job {id} is still {job.state} after {timeout:g} s; it goes on")
            wait = longest

    def result(self, job: Job) -> Result:
        """What a job brought back, as its kind's own class; `repeated` takes it as it takes the job.

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
            return KINDS[job.kind].result.model_validate(job.result, extra="ignore").of(job)
        except ValidationError as error:
            raise VLyardError(f"the result of job {job.id} does not fit this client: upgrade vlyard") from error

    @overload
    def run(self, spec: ConversionSpec, **how: Unpack[How]) -> ConversionResult: ...

    @overload
    def run(self, spec: InferenceSpec, **how: Unpack[How]) -> InferenceResult: ...

    @overload
    def run(self, spec: PredictionSpec, **how: Unpack[How]) -> PredictionResult: ...

    @overload
    def run(self, spec: TrainingCheckSpec, **how: Unpack[How]) -> TrainingCheckResult: ...

    @overload
    def run(self, spec: TrainingSpec, **how: Unpack[How]) -> TrainingResult: ...

    @overload
    def run(self, spec: EvaluationSpec, **how: Unpack[How]) -> EvaluationResult: ...

    @overload
    def run(self, spec: ExportSpec, **how: Unpack[How]) -> ExportResult: ...

    @overload
    def run(self, spec: VerificationSpec, **how: Unpack[How]) -> VerificationResult: ...

    @overload
    def run(self, spec: ImportSpec, **how: Unpack[How]) -> ImportResult: ...

    @overload
    def run(self, spec: NoopSpec, **how: Unpack[How]) -> NoopResult: ...

    @overload
    def run(self, spec: Spec, **how: Unpack[How]) -> Result: ...

    def run(
        self,
        spec: Spec,
        *,
        pool: str = "default",
        priority: int = 0,
        labels: Mapping[str, str] | None = None,
        expires_in: float | None = None,
        expires_at: datetime | None = None,
        max_runtime: float | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Job], None] | None = None,
        idempotency_key: str | None = None,
    ) -> Result:
        """`submit`, `wait` and `result` in one."""
        job = self.submit(
            spec,
            pool=pool,
            priority=priority,
            labels=labels,
            expires_in=expires_in,
            expires_at=expires_at,
            max_runtime=max_runtime,
            idempotency_key=idempotency_key,
        )
        return self.result(self.wait(job.id, timeout=timeout, on_progress=on_progress))

    def events(self, id: UUID | str, after: int = 0) -> Iterator[Event]:
        """What happens to a job, as it happens, until it has ended: each event after a number once, in order.

        A lost connection is opened again where it broke off. Raises `Unavailable` where that fails for the client's
        timeout.
        """
        path = f"/v1/jobs/{checked_id(id)}/events"
        for message in follow_stream(lambda read: self._stream(path, {}, read), after):
            yield parsed(Event, message.data, path)

    def log(self, id: UUID | str, attempt: int | None = None, *, follow: bool = False) -> Iterator[str]:
        """What an attempt's handler said, in pieces of whole lines; of the newest attempt, where none is named.

        With `follow` the iteration goes on until the attempt has ended, through lost connections as `events` does.
        """
        path = f"/v1/jobs/{checked_id(id)}/logs"
        asked = {} if attempt is None else {"attempt": str(attempt)}
        page = self._call(LogPage, "GET", path, params=asked)
        asked = {"attempt": str(page.attempt)}  # a connection that is opened again must not slip to the next one
        while page.data:
            yield from (piece.text for piece in page.data)
            page = self._call(LogPage, "GET", path, params={**asked, "after": str(page.next_after)})
        if follow and not page.ended:
            for message in follow_stream(lambda read: self._stream(path, asked, read), page.next_after):
                yield parsed(LogPiece, message.data, path).text


def _failure(job: Job) -> JobFailed:
    if job.error is None:
        return JobFailed(f"job {job.id} failed and does not say why")
    return JobFailed(f"job {job.id} failed: {job.error.message} [{job.error.code}]", job.error.complaints)
