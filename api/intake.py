"""Where single submissions come together: those that arrive while a transaction is under way share the next one.

A transaction has a price of its own: its commit waits for the disk, and each of its statements for the network and for
Python. Sixteen clients that submit at once would pay it sixteen times. Whoever comes alone waits for nobody.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from control.accounts import authenticate_each
from control.submit import Request, Submitted, submit_each
from db.session import Database
from vlyard.errors import Unauthenticated, Unavailable
from vlyard.jobs.view import Submission

log = structlog.get_logger()

_AT_ONCE = 256  # submissions in one transaction
Answers = Sequence[Submitted | Exception]


@dataclass(frozen=True)
class _Handed:
    key: str
    submission: Submission
    idempotency_key: str | None
    answer: asyncio.Future[Submitted]


class Intake:
    """Stores the single submissions of one API process. `stored` is called after each transaction."""

    def __init__(self, database: Database, stored: Callable[[], None]) -> None:
        self._database = database
        self._stored = stored
        self._handed: list[_Handed] = []
        self._lock = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Store what was handed over, and end."""
        with self._lock:
            self._stopped = True
            self._lock.notify()
        self._thread.join(timeout=5)

    async def take(self, key: str, submission: Submission, idempotency_key: str | None) -> Submitted:
        """Store a job for whom the API key names, and return it when that is committed; raises as `submit` does."""
        answer: asyncio.Future[Submitted] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._handed.append(_Handed(key, submission, idempotency_key, answer))
            self._lock.notify()
        return await answer

    def _run(self) -> None:
        while batch := self._next():
            answers = self._store(batch)
            self._stored()
            batch[0].answer.get_loop().call_soon_threadsafe(_tell, batch, answers)

    def _next(self) -> Sequence[_Handed]:
        with self._lock:
            while not self._handed and not self._stopped:
                self._lock.wait()
            batch, self._handed = self._handed[:_AT_ONCE], self._handed[_AT_ONCE:]
            return batch

    def _store(self, batch: Sequence[_Handed]) -> Answers:
        try:
            return self._persist(batch)
        except Unavailable as error:
            return [error] * len(batch)
        except Exception as error:  # of ours, or something in one of them is not to the database's liking
            if len(batch) == 1:
                return [error]
            log.exception("submissions cannot be stored together", count=len(batch))
            return [answer for each in batch for answer in self._store([each])]

    def _persist(self, batch: Sequence[_Handed]) -> Answers:
        with self._database.transaction() as session:
            callers = authenticate_each(session, {each.key for each in batch})
            requests = {
                at: Request(callers[each.key], each.submission, each.idempotency_key)
                for at, each in enumerate(batch)
                if each.key in callers
            }
            answers = dict(zip(requests, submit_each(session, list(requests.values())), strict=True))
        return [answers.get(at) or Unauthenticated() for at in range(len(batch))]


def _tell(batch: Sequence[_Handed], answers: Answers) -> None:
    for each, answer in zip(batch, answers, strict=True):
        if each.answer.done():  # its client has gone
            continue
        if isinstance(answer, Exception):
            each.answer.set_exception(answer)
        else:
            each.answer.set_result(answer)
