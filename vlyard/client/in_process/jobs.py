"""The jobs of a VLyard in memory: accepted, run by the test's own handlers, looked at. Knows no HTTP."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from vlyard.client.in_process.artefacts import Artefacts
from vlyard.client.in_process.files import Files
from vlyard.client.in_process.models import Models
from vlyard.client.in_process.needs import Need, circular, needs_of, never, unusable, with_texts
from vlyard.errors import (
    Blame,
    Cancelled,
    Complaint,
    Conflict,
    DependencyFailed,
    Expired,
    InvalidInput,
    NotFound,
    UserError,
    VLyardError,
)
from vlyard.jobs import why
from vlyard.jobs.changing import changed
from vlyard.jobs.events import Event
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.ours import presumed
from vlyard.jobs.output import LogPiece
from vlyard.jobs.spec import Reference, Result, Spec
from vlyard.jobs.state import TERMINAL, State
from vlyard.jobs.view import Attempt, Changes, Entry, Failure, Job, Progress, Submission
from vlyard.jobs.why import Facts, Line, Staff, Why, explain

Handler = Callable[[Any, Files], Result]  # a specification of its kind, and the job's files
WORKER = "in-process"
_TRIES = {Blame.USER: 1, Blame.OOM: 2}  # attempts that may end so; others, as many as the kind has


@dataclass
class _Record:
    """A job, and what happened to it."""

    job: Job
    needs: Sequence[Need] = ()
    events: list[Event] = field(default_factory=list)
    log: list[tuple[int, LogPiece]] = field(default_factory=list)  # each with its attempt


class Jobs:
    """Every job. They run when they are told to, one after the other."""

    def __init__(self, handlers: Mapping[str, Handler], artefacts: Artefacts, models: Models, pools: set[str]) -> None:
        self._handlers = handlers
        self._artefacts = artefacts
        self._models = models
        self._pools = pools
        self._records: dict[UUID, _Record] = {}  # the oldest first

    # --- what clients ask for ---------------------------------------------------------------------------------

    def submit(self, wanted: Sequence[Submission], where: str = "", cloned_from: UUID | None = None) -> list[Job]:
        """Accept these jobs, all or none. `where` is the place of each in the request."""
        wanted = [each.model_copy(update={"spec": self._models.with_version(each.spec)}) for each in wanted]
        places, ids = [where.format(at) for at in range(len(wanted))], [uuid4() for _ in wanted]
        names, faults = _names(wanted, places, ids)
        needs = {id: needs_of(each.spec, at, names) for each, at, id in zip(wanted, places, ids, strict=True)}
        faults += [fault for each, at in zip(wanted, places, strict=True) for fault in self._faults(each, at)]
        known = {id: record.job for id, record in self._records.items()}
        faults += unusable((need for each in needs.values() for need in each), ids, known)
        faults += circular(needs)
        if faults:
            raise InvalidInput("the request is not valid", faults)
        for each, id in zip(wanted, ids, strict=True):
            self._accept(id, each, needs[id], cloned_from)
        return [self.look(id) for id in ids]

    def repeat(self, id: UUID, changes: Changes, *, ended: bool = False) -> Job:
        """Accept a job that does what another one does, with changes; on request only where that one has ended."""
        source = self.look(id)
        if ended and source.state not in TERMINAL:
            raise Conflict(f"the job has not ended yet: it is {source.state}")
        same = source.model_dump(include={"pool", "priority", "labels", "max_runtime"})
        given = changes.model_dump(include={"pool", "priority", "labels"}, exclude_none=True)
        spec = changed(source.model_dump(mode="json")["spec"], changes.spec)
        [job] = self.submit([Submission(spec=spec, **{**same, **given})], cloned_from=id)
        return job

    def look(self, id: UUID) -> Job:
        """A job as it is."""
        return self._record(id).job

    def every(self) -> Sequence[Job]:
        """All jobs, the youngest first."""
        return [record.job for record in reversed(self._records.values())]

    def events(self, id: UUID, after: int) -> Sequence[Event]:
        """What happened to a job after a number."""
        return self._record(id).events[after:]

    def log(self, id: UUID, attempt: int | None, after: int) -> tuple[int, Sequence[LogPiece]]:
        """The attempt's number, and what it said after a number; of the newest, where none is named."""
        record = self._record(id)
        number = attempt or max(record.job.attempt, 1)
        return number, [piece for of, piece in record.log if of == number and piece.seq > after]

    def cancel(self, id: UUID) -> Job:
        """Cancel a job that has not run yet. Raises `Conflict` where it has ended."""
        record = self._record(id)
        if record.job.state in TERMINAL:
            raise Conflict(f"the job has ended already: it is {record.job.state}")
        self._move(record, State.CANCELLED, finished_at=_now(), cancel_requested=True)
        self._settle()
        return record.job

    def reprioritise(self, id: UUID, priority: int) -> Job:
        """Give a job that waits another priority."""
        record = self._record(id)
        if record.job.state not in {State.QUEUED, State.BLOCKED}:
            raise Conflict(f"the job does not wait in the queue any more: it is {record.job.state}")
        record.job = record.job.model_copy(update={"priority": priority})
        self._tell(record, "priority", {"priority": priority})
        return record.job

    def why(self, id: UUID) -> Why:
        """Why a job is where it is: in the queue it is because nobody has let it go."""
        job, line = self.look(id), self.waiting()
        known = Facts(job, KINDS[job.kind].max_attempts, _now(), job.finished_at or job.created_at)
        if id in line:
            known = replace(known, staff=Staff(workers=1, slots=1, taken=1), line=Line(line.index(id)))
        lacks = [(need, self.look(need.job)) for need in self._record(id).needs if need.job]
        shown = [
            why.Need(job=other.id, kind=other.kind, state=other.state, output=need.output) for need, other in lacks
        ]
        lacking = sum(each.state is not State.SUCCEEDED for each in shown)
        return explain(replace(known, needs=shown, lacking=lacking) if job.state is State.BLOCKED else known)

    # --- running ----------------------------------------------------------------------------------------------

    def waiting(self) -> list[UUID]:
        """The jobs that wait, in the order in which they will run."""
        queued = [record.job for record in self._records.values() if record.job.state is State.QUEUED]
        return [job.id for job in sorted(queued, key=lambda job: -job.priority)]

    def run(self, id: UUID) -> None:
        """Run a job to its end, with as many attempts as it takes."""
        record = self._record(id)
        while record.job.state is State.QUEUED:
            if record.job.expires_at is not None and record.job.expires_at < _now():
                failure = _failure(Expired())
                told = {"error": failure.model_dump(mode="json")}
                self._move(record, State.FAILED, told, error=failure, finished_at=_now())
            else:
                self._attempt(record)
        self._settle()

    def _settle(self) -> None:
        """Queue what has all that it needs, and fail what will never have it, and so on."""
        moved = True
        while moved:
            moved = any(self._settled(each) for each in self._records.values() if each.job.state is State.BLOCKED)

    def _settled(self, record: _Record) -> bool:
        found = [(need, self._records[need.job].job) for need in record.needs if need.job]
        for need, job in found:
            if reason := never(job, need.output):
                said = f"the job needs the output {need.output!r} of another one: {reason}"
                its_own = job.error.complaints if job.error else ()
                failure = _failure(DependencyFailed(said, [Complaint(need.pointer, reason), *its_own]))
                told = {"error": failure.model_dump(mode="json")}
                self._move(record, State.FAILED, told, error=failure, finished_at=_now())
                return True
        if any(job.state is not State.SUCCEEDED for _, job in found):
            return False
        texts = {f"job:{job.id}/{need.output}": (job.result or {})["artefacts"][need.output] for need, job in found}
        assert isinstance(record.job.spec, Spec)
        self._move(record, State.QUEUED, spec=with_texts(record.job.spec, texts))
        return True

    def _attempt(self, record: _Record) -> None:
        number = record.job.attempt + 1
        self._move(record, State.DISPATCHED, attempt=number)
        attempt = Attempt(number=number, worker=WORKER, started_at=_now())
        attempts = (*record.job.attempts, attempt)
        self._move(record, State.RUNNING, attempts=attempts, started_at=_now(), progress=None)
        try:
            result = self._handled(record)
        except Cancelled:
            self._close(record, "cancelled", State.CANCELLED)
        except Exception as error:  # noqa: BLE001  # whatever the test's handler raises is how the attempt ends
            failure = _failure(error)
            left = number < _TRIES.get(failure.blame, KINDS[record.job.kind].max_attempts)
            self._close(record, "failed", State.QUEUED if left else State.FAILED, error=failure)
        else:
            self._close(record, "succeeded", State.SUCCEEDED, result=result.model_dump(mode="json"), error=None)

    def _handled(self, record: _Record) -> Result:
        job = record.job
        assert isinstance(job.spec, Spec)
        files = Files(
            self._artefacts,
            job.id,
            frozenset(job.spec.inputs()),
            lambda fraction, text: self._progress(record, fraction, text),
            lambda text: self._say(record, text),
        )
        result = self._handlers[job.kind](job.spec, files)
        kind = KINDS[job.kind].result
        if not isinstance(result, kind):
            raise TypeError(
                f"the handler returned a {type(result).__name__}, and {job.kind} jobs bring a {kind.__name__}"
            )
        made = {artefact.id for artefact in self._artefacts.made(job.id)}
        if absent := [f"{name} ({id})" for name, id in result.artefacts.items() if id not in made]:
            raise VLyardError(f"the result names artefacts that were never stored: {', '.join(absent)}")
        return self._models.named(job, result)

    def _close(self, record: _Record, outcome: str, target: State, **changes: Any) -> None:
        error = changes.get("error")
        ended = {"ended_at": _now(), "outcome": outcome, "error": error}
        attempts = (*record.job.attempts[:-1], record.job.attempts[-1].model_copy(update=ended))
        more = {"started_at": None, "progress": None} if target is State.QUEUED else {"finished_at": _now()}
        told = {"outcome": outcome, "error": error.model_dump(mode="json") if error else None}
        self._move(record, target, told, attempts=attempts, **changes, **more)

    # --- within -----------------------------------------------------------------------------------------------

    def _record(self, id: UUID) -> _Record:
        if id not in self._records:
            raise NotFound(f"there is no job {id}")
        return self._records[id]

    def _faults(self, wanted: Submission, where: str) -> Iterator[Complaint]:
        kind = KINDS[wanted.spec.kind]
        if kind.name not in self._handlers:
            known = ", ".join(self._handlers) or "none"
            raise UserError(
                f"this in-process VLyard was given nothing that does {kind.name} jobs (it knows: {known}): say "
                f"InProcess({{{kind.spec.__name__}: lambda spec, files: {kind.result.__name__}(...)}})"
            )
        if wanted.pool not in self._pools:
            yield Complaint(f"{where}/pool", f"there is no pool {wanted.pool!r}")
        yield from presumed(wanted.spec, where)
        trees = wanted.spec.trees()
        for id in wanted.spec.inputs():
            if isinstance(id, Reference):
                continue
            pointer = f"{where}/spec{wanted.spec.place_of(id)}"
            yield from self._artefacts.unusable(id, pointer, tree_is_fine=id in trees)
        yield from self._models.faults(wanted.spec, where)

    def _accept(self, id: UUID, wanted: Submission, needs: Sequence[Need], cloned_from: UUID | None) -> None:
        now, kind = _now(), KINDS[wanted.spec.kind]
        expires_at = wanted.expires_at if wanted.expires_in is None else now + timedelta(seconds=wanted.expires_in)
        needed = [(need, self._records[need.job].job) for need in needs if need.job in self._records]
        ready = len(needed) == len(needs) and all(job.state is State.SUCCEEDED for _, job in needed)
        texts = {need.text: f"job:{need.job}/{need.output}" for need in needs}  # an entry's name means nothing later
        if ready:
            texts = {need.text: (job.result or {})["artefacts"][need.output] for need, job in needed}
        job = Job(
            id=id,
            kind=kind.name,
            state=State.QUEUED if ready else State.BLOCKED,
            device=kind.device,
            attempt=0,
            spec=with_texts(wanted.spec, texts),
            expires_at=expires_at,
            cloned_from=cloned_from,
            created_at=now,
            **wanted.model_dump(include={"pool", "priority", "labels", "max_runtime"}),
        )
        self._records[id] = record = _Record(job, needs)
        self._tell(record, "state", {"state": job.state})

    def _move(self, record: _Record, target: State, told: Mapping[str, Any] | None = None, **changes: Any) -> Job:
        record.job = record.job.model_copy(update={"state": target, **changes})
        attempt = {"attempt": record.job.attempt} if record.job.attempt else {}
        self._tell(record, "state", {"state": target, **attempt, **(told or {})})
        return record.job

    def _tell(self, record: _Record, type: str, data: dict[str, Any]) -> None:
        record.events.append(Event(seq=len(record.events) + 1, at=_now(), type=type, data=data))

    def _progress(self, record: _Record, fraction: float | None, text: str) -> None:
        progress = Progress(fraction=fraction, text=text)
        record.job = record.job.model_copy(update={"progress": progress})
        self._tell(record, "progress", progress.model_dump(mode="json"))

    def _say(self, record: _Record, text: str) -> None:
        number = record.job.attempt
        seq = sum(of == number for of, _ in record.log) + 1
        record.log.append((number, LogPiece(seq=seq, at=_now(), text=text)))


def _names(
    wanted: Sequence[Submission], places: Sequence[str], ids: Sequence[UUID]
) -> tuple[Mapping[str, UUID], list[Complaint]]:
    """The jobs by the names of their entries, and what is wrong with these."""
    names: dict[str, UUID] = {}
    faults = []
    for each, place, id in zip(wanted, places, ids, strict=True):
        name = each.name if isinstance(each, Entry) else None
        if name is not None and names.setdefault(name, id) != id:
            what = f"an earlier entry is called {name!r} already"
            faults.append(Complaint(f"{place}/name", what, "give each entry a name of its own"))
    return names, faults


def _now() -> datetime:
    return datetime.now(UTC)


def _failure(error: Exception) -> Failure:
    if not isinstance(error, VLyardError):
        complaint = Complaint(type(error).__name__, str(error) or "no message")
        error = VLyardError("the handler failed in a way that it does not foresee", [complaint])
    return Failure(code=error.code, message=error.message, blame=error.blame, complaints=error.complaints)
