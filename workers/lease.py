"""Keeping the leases of what a worker holds, from threads and a database connection of its own.

One transaction per beat renews every lease, says that the worker lives, stores progress, and brings back who is to
stop. When renewing fails for two thirds of a lease, the worker fences itself: it stops its work and commits nothing,
because by the time it could, somebody else may have the job. Another thread than the renewing one sees to that, because
a database that hangs takes the renewing one with it.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from db import leases, logs, workers
from db.queue import Pair
from db.session import Database
from vlyard.errors import Cancelled, StaleAttempt, TimeLimitExceeded, Unavailable, VLyardError
from vlyard.jobs.view import Progress
from workers.logs import AttemptLog
from workers.progress import Pace

log = structlog.get_logger()

_LONGEST_BEAT_SECONDS = 1.0  # cancelling is heard within this
_FENCE = 2 / 3  # of a lease without renewal, and the worker stops by itself
_HUNG_EXIT_CODE = 70
_LONGEST_PREPARING_SECONDS = 6 * 3600.0  # such as fetching a model from a hub


@dataclass
class Hold:
    """One attempt that this worker holds: where its handler asks whether to stop, and says how far it is."""

    pair: Pair
    renewed_at: float  # monotonic
    killable: bool  # whether `on_stop` ends the work by force; otherwise the handler must look
    resumes: bool = False  # whether the next attempt can go on from where this one is stopped
    stop_reason: VLyardError | None = None
    stopped_at: float = 0.0
    began_at: float = math.inf  # monotonic; a bundle's members begin one after the other
    deadline: float = math.inf  # monotonic; it moves on while the handler prepares
    last_moment: float = math.inf  # monotonic; what its user gave it, whatever it does meanwhile
    start_noted: bool = False
    on_stop: Callable[[], None] = lambda: None
    log: AttemptLog | None = None  # what its handler says
    left: Mapping[str, Any] | None = None  # the result in part of a handler that was cancelled
    _progress: Progress | None = None
    _metrics: list[Mapping[str, Any]] = field(default_factory=list)
    _pace: Pace = field(default_factory=Pace)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, limit_seconds: float, in_all_seconds: float = math.inf) -> None:
        """The handler begins now, and has so many seconds, and with what it prepares so many in all."""
        self.began_at = time.monotonic()
        self.deadline, self.last_moment = self.began_at + limit_seconds, self.began_at + in_all_seconds

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """For as long as the block lasts, and not too long, the time limit of its kind stands still."""
        began = time.monotonic()
        self.deadline += _LONGEST_PREPARING_SECONDS
        try:
            yield
        finally:
            self.deadline -= max(0.0, _LONGEST_PREPARING_SECONDS - (time.monotonic() - began))

    def check(self) -> None:
        """Raise the reason to stop, if there is one."""
        if self.stop_reason is not None:
            raise self.stop_reason

    def tell(self, fraction: float | None, text: str, rate: float | None = None, unit: str = "") -> None:
        """Note how far the attempt is; the next beat stores it."""
        with self._lock:
            eta = self._pace.eta(fraction, time.monotonic())
            self._progress = Progress(fraction=fraction, text=text, rate=rate, unit=unit or None, eta_seconds=eta)

    def take_progress(self) -> Progress | None:
        """What was told since the last beat."""
        with self._lock:
            progress, self._progress = self._progress, None
        return progress

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Note what was measured; the next beat stores the newest, and those that say what it does not."""
        with self._lock:
            self._metrics = [each for each in self._metrics if each.keys() - metrics.keys()] + [metrics]

    def take_metrics(self) -> Sequence[Mapping[str, Any]]:
        """What was noted since the last beat."""
        with self._lock:
            metrics, self._metrics = self._metrics, []
        return metrics

    def leave(self, result: Mapping[str, Any]) -> None:
        """What there is of a result, where the handler then ends because it was cancelled."""
        self.left = result

    def stop(self, reason: VLyardError) -> None:
        """Tell the work to stop; the first reason stands."""
        with self._lock:
            if self.stop_reason is not None:
                return
            self.stop_reason, self.stopped_at = reason, time.monotonic()
        self.on_stop()


class LeaseKeeper:
    """Renews the leases of one worker."""

    def __init__(
        self,
        database: Database,
        worker: UUID,
        lease_seconds: float,
        grace_seconds: float,
        happened: Callable[[], None] = lambda: None,  # called when there is something new to read of a job
        *,
        heed: Callable[[bool], None] = lambda _: None,  # called at each beat: whether the worker is to drain
    ) -> None:
        self._heed = heed
        self._happened = happened
        self._database = database
        self._worker = worker
        self._lease = lease_seconds
        self._grace = grace_seconds
        self._beat = min(lease_seconds / 4, _LONGEST_BEAT_SECONDS)
        self._holds: dict[Pair, Hold] = {}
        self._given_up: set[Pair] = set()  # and not told of yet
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(step,), name=name, daemon=True)
            for name, step in (("leases", self._keep), ("fence", self._judge))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def hold(self, pair: Pair, claimed_at: float, *, killable: bool, resumes: bool = False) -> Hold:
        """Keep the lease of a claimed attempt until it is released. `claimed_at` is a moment before the claim."""
        hold = Hold(pair, claimed_at, killable, resumes)
        with self._lock:
            self._holds[pair] = hold
        return hold

    def release(self, hold: Hold) -> None:
        """The attempt's ending is recorded."""
        with self._lock:
            self._holds.pop(hold.pair, None)

    def give_up(self, hold: Hold) -> None:
        """The attempt's ending is not ours to record; the next beat says that it has written its last only now."""
        with self._lock:
            self._holds.pop(hold.pair, None)
            self._given_up.add(hold.pair)

    def stop_all(self, reason: VLyardError) -> None:
        """Tell everything that runs to stop."""
        for hold in self._current():
            hold.stop(reason)

    def stop_resuming(self, reason: VLyardError) -> None:
        """Tell everything to stop that can go on from where it is: it needs its time for that."""
        for hold in self._current():
            if hold.resumes:
                hold.stop(reason)

    def _run(self, step: Callable[[], None]) -> None:
        while not self._stopped.wait(self._beat):
            step()

    def _keep(self) -> None:
        holds = {hold.pair: hold for hold in self._current()}
        try:
            self._renew(holds)
        except Unavailable as error:
            log.warning("leases not renewed", reason=str(error), held=len(holds))
        except Exception:  # this thread has to live; the fence stops what cannot be renewed
            log.exception("leases not renewed", held=len(holds))

    def _renew(self, holds: dict[Pair, Hold]) -> None:
        asked_at = time.monotonic()
        begun = [hold for hold in holds.values() if hold.began_at < asked_at and not hold.start_noted]
        progress = {pair: told for pair, hold in holds.items() if (told := hold.take_progress())}
        metrics = {pair: noted for pair, hold in holds.items() if (noted := hold.take_metrics())}
        pieces = [piece for hold in holds.values() if hold.log for piece in hold.log.pending()]
        with self._lock:
            given_up = list(self._given_up)
        with self._database.transaction() as session:
            draining = workers.beat(session, self._worker)
            renewed = leases.renew(session, self._worker, list(holds), self._lease) if holds else []
            for pair, told in progress.items():
                leases.record_progress(session, self._worker, pair, told.model_dump(mode="json"))
            for pair, notes in metrics.items():
                for each in notes:
                    leases.record_metrics(session, self._worker, pair, each)
            logs.append(session, self._worker, pieces)
            if begun:
                leases.note_starts(session, self._worker, {hold.pair: asked_at - hold.began_at for hold in begun})
            leases.note_given_up(session, self._worker, given_up)
        with self._lock:
            self._given_up.difference_update(given_up)
        self._heed(draining)
        for hold in begun:
            hold.start_noted = True
        for hold in holds.values():
            if hold.log:
                hold.log.stored(pieces)
        if pieces or progress or metrics:
            self._happened()
        for row in renewed:
            hold = holds.pop((row.job, row.attempt))
            hold.renewed_at = asked_at
            if row.cancel_requested:
                hold.stop(Cancelled())
        for pair, hold in holds.items():
            if pair in self._holds:  # not one that ended while the statement ran
                hold.stop(StaleAttempt())

    def _judge(self) -> None:
        now = time.monotonic()
        for hold in self._current():
            if now - hold.renewed_at > self._lease * _FENCE:
                hold.stop(StaleAttempt("the lease could not be renewed in time"))
            if now > min(hold.deadline, hold.last_moment):
                hold.stop(TimeLimitExceeded())
            if hold.stop_reason and not hold.killable and now - hold.stopped_at > self._lease + self._grace:
                # A thread cannot be killed. Its process can, and gives back the GPU and every lease that it holds.
                log.error("a handler does not stop: the worker ends", job=str(hold.pair[0]), attempt=hold.pair[1])
                os._exit(_HUNG_EXIT_CODE)

    def _current(self) -> list[Hold]:
        with self._lock:
            return list(self._holds.values())
