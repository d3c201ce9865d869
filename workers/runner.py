"""One doorbell answered, from claim to result: claim → (inputs → handler → artefacts → ending) for each job.

What a doorbell says is checked against the row: a stale, doubled or late one finds nothing to claim and ends here.
"""

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from control import lifecycle
from control.artefacts import ArtefactStore
from control.failures import failure_of
from control.inputs import Inputs, checked_inputs, inputs_of, names_of
from control.lifecycle import Ending, Rules
from control.resuming import Resumption, resumptions
from control.settings import Settings
from db import queue, workers
from db.leases import Claimed
from db.models import Outcome
from db.queue import Pair
from db.session import Database
from vlyard.errors import Cancelled, StaleAttempt, Unavailable, VLyardError, WorkerStopping
from vlyard.files import Stored
from vlyard.jobs.kinds import KINDS, Device, Isolation, Kind
from vlyard.jobs.state import State
from workers.checkpoints import CheckpointRows, checkpoint_of
from workers.completer import Completer
from workers.context import Context
from workers.floor import Floor
from workers.handlers import load_handler
from workers.isolation import Assignment, HandlerFailed, run_isolated
from workers.lease import Hold, LeaseKeeper
from workers.logs import AttemptLog

logger = structlog.get_logger()

_PAUSE_SECONDS = 0.5  # before trying again where the database is away


@dataclass(frozen=True)
class _Found:
    """What the transaction of a claim found for the jobs of a message."""

    inputs: Inputs
    left: Mapping[UUID, Resumption]  # by job


@dataclass(frozen=True)
class Runner:
    """What a worker needs to run attempts."""

    worker: UUID
    database: Database
    store: ArtefactStore
    keeper: LeaseKeeper
    completer: Completer
    settings: Settings
    rules: Rules
    secrets: frozenset[str]  # that no log may show
    unload: Callable[[], None] = lambda: None  # gives back the memory of models that nobody uses
    slots: int = 1  # of the worker
    patience_seconds: float = 30.0  # that one on probation waits, and keeps others waiting, until it is rung again
    floor: Floor = field(default_factory=Floor)
    leaving: threading.Event = field(default_factory=threading.Event)  # set once it is to begin nothing more

    def answer(self, name: str, pairs: Sequence[Pair], *, alone: bool = False) -> Sequence[Ending]:
        """As `run`, for a message of this kind, once there is room for it.

        What computes in a process of its own has the worker's GPUs alone, and meanwhile the worker says that it has no
        other slot. What was lost in company is on probation: nothing is beside it that has only begun, or that has
        ended and is not recorded, so that its loss would be its own.

        The room is waited for before anything is claimed: nothing's time runs, and whoever is free may answer instead.
        """
        kind = KINDS[name]
        whole = kind.device is Device.GPU and kind.isolation is Isolation.PROCESS
        until = time.monotonic() + (self.patience_seconds if alone and not whole else math.inf)

        def given_up() -> bool:
            return self.leaving.is_set() or time.monotonic() > until

        enter = self.floor.alone if whole else self.floor.on_probation if alone else self.floor.shared
        with enter(given_up) as free:
            if not free or (alone and not self.completer.settle(given_up)):
                return []
            with self._narrow() if whole else nullcontext():
                return self.run(pairs)

    @contextmanager
    def _narrow(self) -> Iterator[None]:
        """For as long as the block lasts, no message comes for another slot."""
        self._have(1)
        try:
            yield
        finally:
            self._have(self.slots)

    def _have(self, slots: int) -> None:
        while self.slots > 1 and not self.leaving.is_set():
            try:
                with self.database.transaction() as session:
                    workers.seat(session, self.worker, slots)
            except Unavailable as error:
                logger.warning("slots not told yet", slots=slots, reason=str(error))
                self.leaving.wait(_PAUSE_SECONDS)
                continue
            return

    def run(self, pairs: Sequence[Pair]) -> Sequence[Ending]:
        """Answer a doorbell: claim its jobs, run them in their order or together, and have their endings recorded.

        Returns those endings; what could not be claimed, or was lost meanwhile, is not among them. The slot is free
        then: the next doorbell's jobs may begin while these endings are on their way to the database.
        """
        claimed_at = time.monotonic()
        with self.database.transaction() as session:
            claimed = lifecycle.claim(session, self.worker, pairs, self.rules)
            found = _Found(inputs_of(session, claimed), resumptions(session, claimed))
            if not claimed and workers.is_draining(session, self.worker):
                queue.ring_anew(session, pairs)
        if len(claimed) < len(pairs):
            logger.info("nothing to claim", count=len(pairs) - len(claimed), first=str(pairs[0][0]))
        # The leases of all are kept from the start, while they wait for their turn.
        company = [(job, self._hold(job, claimed_at)) for job in claimed]
        ended = count(1)

        def one(member: tuple[Claimed, Hold]) -> Ending | None:
            return self._end(*member, found, more=lambda: next(ended) < len(company))

        if len(company) > 1 and KINDS[claimed[0].kind].together:
            with ThreadPoolExecutor(len(company), "together") as threads:
                endings = list(threads.map(one, company))
        else:
            endings = list(map(one, company))
        return [ending for ending in endings if ending is not None]

    def leave(self, grace_seconds: float) -> None:
        """Begin nothing more, and give back what waits; what runs has so many seconds before it is stopped, too.

        What can go on elsewhere from where it is stops now, and has these seconds to keep that.
        """
        self.leaving.set()
        self.keeper.stop_resuming(WorkerStopping())
        patience = threading.Timer(grace_seconds, self.keeper.stop_all, (WorkerStopping(),))
        patience.daemon = True
        patience.start()

    def _hold(self, job: Claimed, claimed_at: float) -> Hold:
        kind = KINDS[job.kind]
        killable = kind.isolation is Isolation.PROCESS
        return self.keeper.hold((job.job, job.attempt), claimed_at, killable=killable, resumes=kind.resumes)

    def _end(self, job: Claimed, hold: Hold, found: _Found, *, more: Callable[[], bool]) -> Ending | None:
        """Run a member of a message and hand over how it ended; `more` of them may be about to end."""
        ending = Ending(hold.pair, Outcome.RELEASED) if self.leaving.is_set() else self._run_one(job, hold, found)
        follows = more()
        if ending is None:
            self.keeper.give_up(hold)
        else:
            self.completer.hand_over(ending, hold, partial(self._recorded, hold), more=follows)
        return ending

    def _run_one(self, job: Claimed, hold: Hold, found: _Found) -> Ending | None:
        """How the attempt ended; None where it was lost meanwhile."""
        kind = KINDS[job.kind]
        log = hold.log = AttemptLog(hold.pair, self.secrets)
        hold.start(kind.time_limit.total_seconds(), job.max_runtime_seconds or math.inf)
        try:
            ending = self._attempt(kind, job, hold, log, found)
            spent = time.monotonic() - hold.began_at
            return replace(ending, spent=spent, log=self._publish_log(job, log))
        except StaleAttempt as error:
            logger.warning("attempt given up", job=str(job.job), attempt=job.attempt, reason=str(error))
            return None

    def _recorded(self, hold: Hold, state: State | None) -> None:
        if state is None:
            self.keeper.give_up(hold)
        else:
            self.keeper.release(hold)

    def _attempt(self, kind: Kind, claimed: Claimed, hold: Hold, log: AttemptLog, found: _Found) -> Ending:
        """Run the handler, whatever it does; only a lost lease is raised."""
        try:
            hold.check()  # it may have been cancelled while it waited for its turn
            result, published = self._handle(kind, claimed, hold, log, found)
        except StaleAttempt:
            raise
        except Cancelled:
            return Ending(hold.pair, Outcome.CANCELLED, result=hold.left)
        except WorkerStopping:
            return Ending(hold.pair, Outcome.RELEASED)
        except HandlerFailed as error:
            rescued = [asdict(file) for file in error.rescued]
            return Ending(hold.pair, Outcome.FAILED, failure=error.failure, rescued=rescued)
        except Exception as error:  # a handler's error is the job's, never the worker's
            if not _foreseen(error):
                logger.exception("handler failed", job=str(claimed.job), kind=kind.name)
            return Ending(hold.pair, Outcome.FAILED, failure=failure_of(error))
        return Ending(hold.pair, Outcome.SUCCEEDED, result=result, artefacts=[asdict(file) for file in published])

    def _handle(
        self, kind: Kind, claimed: Claimed, hold: Hold, log: AttemptLog, found: _Found
    ) -> tuple[dict[str, Any], Sequence[Stored]]:
        spec = found.inputs.specs.get(claimed.job) or kind.spec.model_validate(claimed.spec)  # or why it is none
        left = found.left.get(claimed.job, Resumption())
        given: dict[str, Any] = {
            "job": claimed.job,
            "attempt": claimed.attempt,
            "prefix": _prefix(claimed),
            "resume": checkpoint_of(left),
            "shortages": left.shortages,
            "named": names_of(claimed, spec, found.inputs),
        }
        inputs = checked_inputs(claimed, spec, found.inputs)
        keep = partial(self._checkpoints.keep, hold)
        if kind.isolation is Isolation.PROCESS:
            with self._scratch() as folder:
                assignment = Assignment(
                    kind=kind.name, spec=dict(claimed.spec), folder=folder, inputs=list(inputs), **given
                )
                if kind.device is Device.GPU:
                    self.unload()  # it has its card alone
                grace, leaving = self.settings.stop_grace_seconds, self.settings.shutdown_grace_seconds
                report = run_isolated(assignment, hold, grace, log, kept=keep, leaving_seconds=leaving)
                return dict(report.result or {}), report.published
        context = Context(
            scratch=self._new_place(),
            inputs={file.id: file for file in inputs},
            store=self.store,
            tell=hold.tell,
            say=log.write,
            check=hold.check,
            record=hold.note,
            leave=hold.leave,
            preparing=hold.preparing,
            hand_over=keep,
            **given,
        )
        try:
            result = load_handler(kind)(spec, context)
        finally:
            context.clear()
        return result.model_dump(mode="json"), context.published

    def _publish_log(self, job: Claimed, log: AttemptLog) -> Mapping[str, Any] | None:
        """Store what the attempt said as a file; where that fails it is still in the database."""
        if log.is_empty:
            return None
        try:
            with self._scratch() as folder:
                file = log.publish(self.store, folder, _prefix(job))
        except (VLyardError, OSError) as error:
            logger.warning("log not stored", job=str(job.job), attempt=job.attempt, reason=str(error))
            return None
        finally:
            log.close()
        return None if file is None else asdict(file)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder that is removed afterwards."""
        folder = self._new_place()
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            if folder.exists():
                shutil.rmtree(folder)

    def _new_place(self) -> Path:
        return Path(f"{self._room}/vlyard-{uuid7().hex}")

    @cached_property
    def _checkpoints(self) -> CheckpointRows:
        return CheckpointRows(self.worker, self.database, self.store, self.settings.lease_seconds)

    @cached_property
    def _room(self) -> Path:
        return Path(self.settings.work_dir or tempfile.gettempdir())


def _prefix(job: Claimed) -> str:
    """The attempt's own place in the store."""
    return f"teams/{job.team}/jobs/{job.job}/attempts/{job.attempt}"


def _foreseen(error: Exception) -> bool:
    return failure_of(error).code != "internal"
