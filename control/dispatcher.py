"""The dispatcher: moves jobs from Postgres to the workers, as late as it can.

Any number of dispatchers may run. Each tick asks for the pools that no other one holds, decides about those, commits,
and only then rings the doorbells. A dispatcher that dies in between leaves jobs that nobody claims; they are rung
again by whoever comes next.
"""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import structlog
from sqlalchemy.orm import Session

from control import fairshare, lifecycle
from control.fairshare import Running, Slots, Waiting
from control.lifecycle import Rules
from control.queue import Doorbells
from control.settings import Settings
from control.wakeup import Bell, Channel, Listener
from db import queue
from db.queue import Doorbell
from db.session import Database
from vlyard.errors import Unavailable

log = structlog.get_logger()

_AT_ONCE = 500  # rows that one tick reaps or rings again at most


@dataclass(frozen=True)
class Tick:
    """What one look at the queue did."""

    reaped: int
    rung: int


class Dispatcher:
    """One dispatcher process."""

    def __init__(self, database: Database, doorbells: Doorbells, settings: Settings, rules: Rules) -> None:
        self._database = database
        self._doorbells = doorbells
        self._settings = settings
        self._rules = rules
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
            self._wake.wait(pause)
            self._wake.clear()
        self._listener.stop()
        self._bell.stop()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()

    def tick(self) -> Tick:
        """Close expired attempts, ring unanswered doorbells again, and dispatch what fits."""
        with self._database.transaction() as session:
            reaped = lifecycle.reap(session, self._rules, _AT_ONCE)
        if reaped:
            log.info("closed attempts whose lease ran out", count=reaped)
            self._bell.strike(Channel.ENDED)
        with self._database.transaction() as session:
            pools = queue.lock_pools(session)
            bells = list(queue.unanswered(session, pools, self._settings.ring_after_seconds, _AT_ONCE))
            for pool in pools:
                bells += self._dispatch(session, pool)
        if bells:
            self._doorbells.ring(bells)
        return Tick(reaped, len(bells))

    def _dispatch(self, session: Session, pool: str) -> Sequence[Doorbell]:
        fresh = self._settings.lease_seconds
        capacity = sorted(queue.capacity(session, pool, fresh), key=lambda row: row[0])
        if not capacity:
            return []
        running = [Running(*row) for row in queue.held(session, pool, fresh)]
        chosen: list[Waiting] = []
        for _, groups in groupby(capacity, key=lambda row: row[0]):
            slots = [Slots(kinds, count) for _, kinds, count in groups]
            chosen += self._choose(session, pool, slots, running)
        return queue.dispatch(session, [job.job for job in chosen]) if chosen else []

    def _choose(self, session: Session, pool: str, slots: Sequence[Slots], running: Sequence[Running]) -> list[Waiting]:
        kinds = frozenset[str]().union(*(group.kinds for group in slots))
        here = [row for row in running if row.kind in kinds]
        demand = Counter[str]()
        for row in here:
            demand[row.kind] += row.count
        free = sum(group.count for group in slots) - fairshare.seated(demand, slots)
        if not free:
            return []
        waiting = [Waiting(*row) for row in queue.waiting(session, pool, kinds, free)]
        return fairshare.choose(waiting, here, {}, {}, slots)
