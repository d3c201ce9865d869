"""Where questions wait until the engine's thread takes them. It knows no model."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vlyard.errors import Unavailable
from workers.qwen.companions import Room, Size, choose
from workers.qwen.ticket import Ticket

_SHORTAGE_SECONDS = 60.0  # after which memory that ran out may be there again


class Desk:
    """Where questions wait until the engine's thread takes them."""

    def __init__(self, room: Room, wait_seconds: float) -> None:
        """`wait_seconds` is how long a question waits for company where nobody runs.

        While others are on their way, it is how long after the last one that came.
        """
        self._room, self._wait_seconds = room, wait_seconds
        self._waiting: list[Ticket] = []  # the oldest first
        self._coming = 0  # questions that are on their way
        self._changed = threading.Condition()
        self._closed = False
        self._fewer_rows, self._fewer_until = room.rows, 0.0  # because memory ran out

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Somebody makes a question, to add it before the block ends."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify_all()

    def add(self, ticket: Ticket) -> None:
        """Somebody asks. Raises `Unavailable` once it is closed."""
        with self._changed:
            if self._closed:
                raise closed()
            self._waiting.append(ticket)
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody is served any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def put_back(self, tickets: Sequence[Ticket], rows: int) -> None:
        """These begin anew, before all others and for a while in batches of so many rows at most: memory ran out."""
        with self._changed:
            self._fewer_rows, self._fewer_until = max(rows, 1), time.monotonic() + _SHORTAGE_SECONDS
            self._come_back(tickets)

    def rows_for(self, length: int) -> int:
        """How many rows of so many tokens a batch may have; one always."""
        return max(1, self._room.tokens // length)

    def put_back_for_room(self, tickets: Sequence[Ticket]) -> None:
        """These go on later, before all others: their companions' answers became longer than was expected."""
        with self._changed:
            self._come_back(tickets)

    def put_back_alone(self, tickets: Sequence[Ticket]) -> None:
        """These begin anew, before all others and one by one: it is not known which of them is at fault."""
        with self._changed:
            for ticket in tickets:
                ticket.alone = True
            self._come_back(tickets)

    def take(self, running: Sequence[Size]) -> list[Ticket]:
        """Those that join the running ones. Where none runs it waits for a question and its company; closed: none."""
        with self._changed:
            if not running:
                self._wait()
            chosen = self._choose(running)
            taken = [self._waiting[at] for at in chosen]
            self._waiting = [ticket for at, ticket in enumerate(self._waiting) if at not in set(chosen)]
            return taken

    def dismiss(self) -> None:
        """Tell all that wait that the engine is closed."""
        with self._changed:
            for ticket in self._waiting:
                ticket.settle(closed())
            self._waiting = []

    def _come_back(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            ticket.go_back()
        self._waiting[:0] = sorted(tickets, key=lambda ticket: ticket.arrived)

    def _wait(self) -> None:
        """Until there is a question, and then for as long as it may wait for company."""
        while not self._closed:
            self._forget_those_who_left()
            if not self._waiting:
                self._changed.wait()
                continue
            if self._waiting[0].alone:
                return
            newest = self._waiting[-1] if self._coming else self._waiting[0]
            left = newest.arrived + self._wait_seconds - time.monotonic()
            if left <= 0 or len(self._choose([])) < len(self._waiting) or len(self._waiting) >= self._most_rows():
                return
            self._changed.wait(left)

    def _choose(self, running: Sequence[Size]) -> list[int]:
        self._forget_those_who_left()
        if self._waiting and self._waiting[0].alone:
            return [] if running else [0]
        room = self._room._replace(rows=self._most_rows())
        return choose([ticket.size for ticket in self._waiting], running, room)

    def _most_rows(self) -> int:
        return self._fewer_rows if time.monotonic() < self._fewer_until else self._room.rows

    def _forget_those_who_left(self) -> None:
        self._waiting = [ticket for ticket in self._waiting if not ticket.over]


def closed() -> Unavailable:
    return Unavailable("the model was unloaded while it was asked")
