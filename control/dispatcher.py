"""The dispatcher: moves jobs from Postgres to the workers, as late as it can.

Any number of dispatchers may run. Each tick asks for the pools that no other one holds, decides about those, commits,
and only then rings the doorbells. A dispatcher that dies in between leaves jobs that nobody claims; they are rung
again by whoever comes next.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from control import fairshare
from control.bundling import bundles
from control.fairshare import Running, Slots, Waiting
from control.lifecycle import Rules
from control.queue import Doorbells
from control.reaping import Reaper
from control.settings import Settings
from control.wakeup import Bell, Channel, Listener
from db import queue
from db.queue import Capacity, Doorbell
from db.session import Database
from vlyard.errors import Unavailable
from vlyard.jobs.kinds import KINDS

log = structlog.get_logger()

_AT_ONCE = 500  # rows that one tick rings again at most
_AHEAD = 2  # messages of short jobs that wait in Redis for each slot
_SWEEP_SECONDS = 0.5  # between looks for leases and doorbells that are overdue
_BUNDLES = {kind.name: kind.bundle for kind in KINDS.values()}
_TOGETHER = frozenset(kind.name for kind in KINDS.values() if kind.together)
_SHORT = frozenset(name for name, most in _BUNDLES.items() if most > 1)
_QUICK = _SHORT - _TOGETHER


@dataclass(frozen=True)
class Tick:
    """What one look at the queue did."""

    reaped: int
    rung: int  # messages


class Dispatcher:
    """One dispatcher process."""

    def __init__(self, database: Database, doorbells: Doorbells, settings: Settings, rules: Rules) -> None:
        self._database = database
        self._doorbells = doorbells
        self._settings = settings
        self._reaper = Reaper(database, rules)
        self._next_sweep = 0.0  # monotonic
        self._wake = threading.Event()
        self._stopped = threading.Event()
        url = settings.database_url.get_secret_value()
        self._listener = Listener(url, (Channel.WORK, Channel.ENDED), self._wake.set)
        self._bell = Bell(url)

    def run(self) -> None:
        """Tick until stopped; an outage of Postgres or Redis is waited out."""
        self._listener.start()
        self._bell.start()
        while not self._stopped.is_set():
            pause = self._settings.poll_seconds * random.uniform(0.75, 1.25)  # noqa: S311  # jitter, not a secret
            try:
                self.tick()
            except Unavailable as error:
                log.warning("waiting", reason=str(error))
                pause = 1.0
                self._wake.clear()
            except Exception:  # of ours: the next look may not meet it, and what is overdue is closed meanwhile
                log.exception("dispatching failed in an unforeseen way")
                pause = 1.0
                self._wake.clear()
            self._wake.wait(pause)
            self._wake.clear()
        self._listener.stop()
        self._bell.stop()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()

    def tick(self) -> Tick:
        """Dispatch what fits, and ever so often close expired attempts and ring unanswered doorbells again."""
        sweep = time.monotonic() >= self._next_sweep
        reaped = self._reap() if sweep else 0
        with self._database.transaction() as session:
            pools = queue.lock_pools(session, self._settings.lease_seconds)
            bells = [bell for pool, slots in pools.items() for bell in self._visit(session, pool, slots, sweep)]
        if sweep:
            self._next_sweep = time.monotonic() + _SWEEP_SECONDS
        if bells:
            self._doorbells.ring(bells)
        return Tick(reaped, len(bells))

    def _reap(self) -> int:
        closed = self._reaper.reap()
        if any(closed.values()):
            log.info("closed what was overdue", **closed)
            self._bell.strike(Channel.ENDED, Channel.EVENTS)
        return closed["attempts"]

    def _visit(self, session: Session, pool: str, capacity: Sequence[Capacity], sweep: bool) -> Sequence[Doorbell]:
        """The doorbells to ring in a pool whose row this transaction has locked."""
        bells: list[Doorbell] = []
        if sweep:  # for those who can hear it: with nobody there, messages would pile up in Redis
            served = frozenset[str]().union(*(kinds for _, kinds, _ in capacity))
            bells += queue.unanswered(session, pool, served, self._settings.ring_after_seconds, _AT_ONCE)
        running = [Running(*row) for row in queue.held(session, pool, self._settings.lease_seconds)]
        messages: list[list[UUID]] = []
        for _, groups in groupby(capacity, key=lambda row: row[0]):
            slots = [Slots(kinds, count) for _, kinds, count in groups]
            messages += self._choose(session, pool, slots, running)
        return [*bells, *queue.dispatch(session, messages)] if messages else bells

    def _choose(
        self, session: Session, pool: str, workers: Sequence[Slots], running: Sequence[Running]
    ) -> list[list[UUID]]:
        kinds = frozenset[str]().union(*(group.kinds for group in workers))
        here = [row for row in running if row.kind in kinds]
        demand = Counter[str]()
        for row in here:
            demand[row.kind] += row.count
        few = [*workers, *_look_ahead(workers, _SHORT)]
        slots = [*few, *_look_ahead(workers, _QUICK)]
        free = sum(group.count for group in slots) - fairshare.seated(demand, slots)
        if not free:
            return []
        limits = {kind: free * _BUNDLES[kind] for kind in kinds & _BUNDLES.keys()}
        waiting = [Waiting(*row) for row in queue.waiting(session, pool, limits)]
        fills = Counter(job.kind for job in waiting)
        if not any(fills[kind] >= limits[kind] for kind in kinds & _QUICK):
            slots = few
        places = {kind: sum(group.count for group in workers if kind in group.kinds) for kind in kinds & _TOGETHER}
        return bundles(fairshare.choose(waiting, here, {}, {}, slots), waiting, _BUNDLES, places)


def _look_ahead(workers: Sequence[Slots], short: frozenset[str]) -> list[Slots]:
    """More seats for short jobs, so that the next messages are there when a worker has finished one.

    There are as many again for quick ones where the line fills them all: full messages of these are over before it is
    looked again.
    """
    seats = [Slots(group.kinds & short, _AHEAD * group.count) for group in workers]
    return [group for group in seats if group.kinds]
