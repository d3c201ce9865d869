"""Who works in a worker: messages side by side, or one of them with nothing beside it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOOK_SECONDS = 0.2  # between two looks at whether the wait is given up


class Floor:
    """A worker's floor. One that wants it alone goes before all that come after it, so that it is not kept waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._waiting = 0  # to have it alone
        self._alone = False

    @contextmanager
    def shared(self, given_up: Callable[[], bool]) -> Iterator[bool]:
        """Wait until nobody has it alone, or wants to; whether one may begin, or the wait was given up."""
        with self._changed:
            free = self._wait(lambda: not self._alone and not self._waiting, given_up)
            self._sharing += free
        try:
            yield free
        finally:
            with self._changed:
                self._sharing -= free
                self._changed.notify_all()

    @contextmanager
    def alone(self, given_up: Callable[[], bool]) -> Iterator[bool]:
        """Wait until nobody is there; whether one may begin, or the wait was given up."""
        with self._changed:
            self._waiting += 1
            free = self._wait(lambda: not self._alone and not self._sharing, given_up)
            self._waiting -= 1
            self._alone = self._alone or free
        try:
            yield free
        finally:
            with self._changed:
                self._alone = self._alone and not free
                self._changed.notify_all()

    def _wait(self, free: Callable[[], bool], given_up: Callable[[], bool]) -> bool:
        while not free():
            if given_up():
                return False
            self._changed.wait(_LOOK_SECONDS)
        return True
