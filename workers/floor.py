"""Who works in a worker: messages side by side, one of them with nothing beside it, or one on probation.

Knows neither what they do, nor why one is on probation.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from control.lifecycle import PROBATION_SECONDS

_LOOK_SECONDS = 0.2  # between two looks at whether the wait is given up


@dataclass(eq=False)
class _Place:
    since: float  # monotonic, as all times here
    closed_until: float  # nobody comes in before


class Floor:
    """A worker's floor. Each of the three ways to enter waits, and says whether one may begin or has given up.

    One that wants more than a place goes before all that come after it, so that it is not kept waiting.
    """

    def __init__(self, probation_seconds: float = PROBATION_SECONDS) -> None:
        self._probation = probation_seconds
        self._changed = threading.Condition()
        self._taken: set[_Place] = set()
        self._waiting = 0  # for more than a place

    def shared(self, given_up: Callable[[], bool]) -> AbstractContextManager[bool]:
        """Have a place beside others, once nobody has the floor closed, or waits to have it so."""
        return self._place(lambda: not self._waiting, 0.0, given_up, first=False)

    def alone(self, given_up: Callable[[], bool]) -> AbstractContextManager[bool]:
        """Have nobody beside oneself, from the beginning to the end."""
        return self._place(lambda: not self._taken, math.inf, given_up, first=True)

    def on_probation(self, given_up: Callable[[], bool]) -> AbstractContextManager[bool]:
        """Have nobody beside oneself, for the time of a probation, but those that have been there for longer."""
        return self._place(lambda: all(map(self._has_stood, self._taken)), self._probation, given_up, first=True)

    @contextmanager
    def _place(
        self, fits: Callable[[], bool], closed_seconds: float, given_up: Callable[[], bool], *, first: bool
    ) -> Iterator[bool]:
        with self._changed:
            self._waiting += first
            free = self._wait(lambda: self._is_open() and fits(), given_up)
            self._waiting -= first
            now = time.monotonic()
            place = _Place(now, now + closed_seconds)
            if free:
                self._taken.add(place)
        try:
            yield free
        finally:
            with self._changed:
                self._taken.discard(place)
                self._changed.notify_all()

    def _is_open(self) -> bool:
        return all(place.closed_until <= time.monotonic() for place in self._taken)

    def _has_stood(self, place: _Place) -> bool:
        return place.since + self._probation <= time.monotonic()

    def _wait(self, free: Callable[[], bool], given_up: Callable[[], bool]) -> bool:
        while not free():
            if given_up():
                return False
            self._changed.wait(_LOOK_SECONDS)
        return True
