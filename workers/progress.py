"""When an attempt will be done, from how fast it went lately. Knows numbers and moments alone."""

from collections import deque
from dataclasses import dataclass, field

_WINDOW_SECONDS = 60.0  # what is older says little about the speed now
_APART_SECONDS = 0.5  # between two moments that are remembered
_TOO_SOON_SECONDS = 1.0  # to tell a speed


@dataclass
class Pace:
    """The fractions that an attempt has reached, and when: of the last minute, one in half a second."""

    _reached: deque[tuple[float, float]] = field(default_factory=deque)  # (seconds, fraction), rising both

    def eta(self, fraction: float | None, now: float) -> float | None:
        """Whole seconds from now to the end, now that this fraction is reached; None where nobody can know yet.

        `now` is in seconds on a clock that never goes back. A fraction below the one before begins anew.
        """
        if fraction is None:
            return None
        if self._reached and fraction < self._reached[-1][1]:
            self._reached.clear()
        if not self._reached or now - self._reached[-1][0] >= _APART_SECONDS:
            self._reached.append((now, fraction))
        while len(self._reached) > 2 and now - self._reached[1][0] > _WINDOW_SECONDS:
            self._reached.popleft()
        since, first = self._reached[0]
        if fraction <= first or now - since < _TOO_SOON_SECONDS:
            return None
        return float(round((1 - fraction) * (now - since) / (fraction - first)))
