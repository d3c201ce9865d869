"""Records how attempts ended, many in one transaction.

Handlers hand over an ending and go on; a thread of its own records whatever has come in since it last looked. While
the database is away it goes on trying, for as long as the leases can stand; an ending whose lease is lost is dropped,
because somebody else may have the job by now.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from control import lifecycle
from control.failures import failure_of
from control.lifecycle import Ending, Rules
from db import logs
from db.logs import Piece
from db.models import Outcome
from db.queue import Pair
from db.session import Database
from vlyard.errors import StaleAttempt, Unavailable
from vlyard.jobs.state import State
from workers.lease import Hold

log = structlog.get_logger()

_AT_ONCE = 256  # endings in one transaction
_LINGER_SECONDS = 0.01  # that an ending waits for others of its message
_PAUSE_SECONDS = 0.5  # before trying again where the database is away
_LOOK_SECONDS = 0.2  # between two looks at whether a wait is given up


@dataclass(frozen=True)
class _Handed:
    ending: Ending
    hold: Hold
    recorded: Callable[[State | None], None]  # with the job's new state, or None where the attempt was not its own


class Completer:
    """Records the endings of one worker."""

    def __init__(self, database: Database, worker: UUID, rules: Rules, ended: Callable[[], None]) -> None:
        self._database = database
        self._worker = worker
        self._rules = rules
        self._ended = ended  # called after each transaction
        self._handed: list[_Handed] = []
        self._open = 0  # that were handed over and are not recorded yet
        self._lock = threading.Condition()
        self._more = False  # whether the message that was handed over last has more that is about to end
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="completer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Record what was handed over, and end."""
        with self._lock:
            self._stopped = True
            self._lock.notify()
        self._thread.join(timeout=30)

    def hand_over(self, ending: Ending, hold: Hold, recorded: Callable[[State | None], None], *, more: bool) -> None:
        """Have an ending recorded, soon; `recorded` is called from another thread when it is.

        With `more` of the same message to come, it may wait a moment for them.
        """
        with self._lock:
            self._handed.append(_Handed(ending, hold, recorded))
            self._open += 1
            self._more = more
            if len(self._handed) == 1 or not more:  # who is woken by each would take turns with the handlers
                self._lock.notify()

    def settle(self, given_up: Callable[[], bool]) -> bool:
        """Wait until all that was handed over is recorded, or dropped; whether it is, or the wait was given up."""
        with self._lock:
            while self._open:
                if given_up():
                    return False
                self._lock.wait(_LOOK_SECONDS)
        return True

    def _run(self) -> None:
        while batch := self._next():
            states = self._record(batch)
            self._ended()
            for each in batch:
                each.recorded(states.get(each.ending.pair))
            with self._lock:
                self._open -= len(batch)
                self._lock.notify_all()
            _log(batch, states)

    def _next(self) -> Sequence[_Handed]:
        with self._lock:
            while not self._handed and not self._stopped:
                self._lock.wait()
            if self._more:
                self._lock.wait_for(lambda: self._stopped or not self._more, _LINGER_SECONDS)
            batch, self._handed = self._handed[:_AT_ONCE], self._handed[_AT_ONCE:]
            return batch

    def _record(self, batch: Sequence[_Handed]) -> Mapping[Pair, State]:
        """The new states of the jobs whose endings could be recorded."""
        try:
            return self._persist([each for each in batch if not _is_lost(each)])
        except Exception as error:
            # Something in one of them is not to the database's liking: find it, and have it fail by itself.
            log.exception("endings cannot be recorded", count=len(batch))
            if len(batch) == 1:
                return self._fail(batch[0], error)
            return {pair: state for each in batch for pair, state in self._record([each]).items()}

    def _fail(self, only: _Handed, error: Exception) -> Mapping[Pair, State]:
        failed = Ending(only.ending.pair, Outcome.FAILED, failure=failure_of(error), spent=only.ending.spent)
        try:
            return self._persist([replace(only, ending=failed)])
        except Exception:  # this thread has to live; the lease runs out, and the job is tried again
            log.exception("ending given up", job=str(failed.pair[0]), attempt=failed.pair[1])
            return {}

    def _persist(self, batch: Sequence[_Handed]) -> Mapping[Pair, State]:
        while batch:
            try:
                with self._database.transaction() as session:
                    logs.append(session, self._worker, [piece for each in batch for piece in _last_words(each.hold)])
                    return lifecycle.finish(session, self._worker, [each.ending for each in batch], self._rules)
            except Unavailable as error:
                log.warning("endings not recorded yet", count=len(batch), reason=str(error))
                time.sleep(_PAUSE_SECONDS)
            batch = [each for each in batch if not _is_lost(each)]
        return {}


def _log(batch: Sequence[_Handed], states: Mapping[Pair, State]) -> None:
    """Write one line for all that ended alike: a line for each costs a short job as much as its handler."""
    alike: dict[tuple[Outcome, State | None], list[str]] = {}
    for ending in (each.ending for each in batch):
        alike.setdefault((ending.outcome, states.get(ending.pair)), []).append("{}:{}".format(*ending.pair))
    for (outcome, state), attempts in alike.items():
        if state is None:
            log.warning("attempts given up", attempts=attempts, reason="they are not its own")
        else:
            log.info("attempts ended", attempts=attempts, outcome=outcome, state=state)


def _last_words(hold: Hold) -> Sequence[Piece]:
    return hold.log.pending() if hold.log else ()


def _is_lost(handed: _Handed) -> bool:
    return isinstance(handed.hold.stop_reason, StaleAttempt)
