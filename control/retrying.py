"""Whether an attempt that ended badly is followed by another, and when. Pure: no database, no clock."""

import random
from dataclasses import dataclass

from vlyard.errors import Blame


@dataclass(frozen=True)
class Backoff:
    """Full jitter: retry n waits anywhere up to base × 2ⁿ seconds, never longer than the cap."""

    base_seconds: float
    cap_seconds: float

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after so many failures (from 1)."""
        return rng.uniform(0, min(self.cap_seconds, self.base_seconds * 2 ** (failures - 1)))


OUTAGE_ATTEMPTS = 20  # with the default pauses an hour, for whoever has to start a server again


@dataclass(frozen=True)
class Past:
    """How often a job's attempts ended badly, the last one included."""

    failures: int  # those that count
    shortages: int = 0  # of memory


def counts(blame: Blame, *, progressed: bool) -> bool:
    """Whether an attempt that ended badly is one of the few that a job has.

    One that was lost and has left more to its successor than it was given is not: a training of a week may lose any
    number of machines.
    """
    return not (blame is Blame.LOST and progressed)


def retry_delay(blame: Blame, past: Past, max_attempts: int, backoff: Backoff, rng: random.Random) -> float | None:
    """Seconds until the next attempt, or None where there is none."""
    if blame is Blame.OUTAGE:
        max_attempts = max(max_attempts, OUTAGE_ATTEMPTS)
    if blame is Blame.USER or past.failures >= max_attempts:
        return None
    if blame is Blame.LOST:
        return 0.0  # nothing was wrong with the job: its machine went away
    if blame is Blame.OOM and past.shortages > 1:
        return None  # memory ran out twice: the job does not fit
    return backoff.delay(past.failures, rng)
