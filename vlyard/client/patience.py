"""How a call is tried again: what is worth another try, how long to pause before it, and when to give up.

Knows HTTP's failures and the clock, and nothing of what is asked. Only calls that may be repeated come here: reads,
and writes that carry an Idempotency-Key or an exact length and checksum.
"""

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf, isfinite
from typing import TypeVar

import httpx

from vlyard.client.problems import GATEWAY_TROUBLE, error_of, shown
from vlyard.errors import InFlight, Unavailable, VLyardError

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds
PASSING = GATEWAY_TROUBLE | {429}  # the statuses after which the same request may succeed

T = TypeVar("T")
_log = logging.getLogger("vlyard.client")


@dataclass(frozen=True)
class Patience:
    """When to give up: no try begins after `seconds`, and there are at most `tries`."""

    seconds: float = inf
    tries: float = inf


class TryAgain(Exception):
    """This try failed in a way that the next may not; after so many seconds, where the server named them."""

    def __init__(self, error: VLyardError, after: float = 0.0) -> None:
        self.error = error
        self.after = after
        super().__init__(str(error))


def persist(once: Callable[[float], T], patience: Patience) -> T:
    """Call `once(seconds left)` until it returns something, and return that.

    Between tries it pauses for a random time below a bound that doubles (full jitter: clients that failed together
    do not come back together), and at least for as long as the server asked. When patience ends, the last try's
    error is raised.
    """
    give_up = time.monotonic() + patience.seconds
    for number in itertools.count(1):
        try:
            return once(give_up - time.monotonic())
        except TryAgain as again:
            bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(number, 10))
            pause = max(again.after, random.uniform(0, bound))  # noqa: S311 (it spreads load and guards nothing)
            if number >= patience.tries or time.monotonic() + pause >= give_up:
                raise again.error from again.__cause__
            level = logging.WARNING if number == 1 else logging.INFO
            _log.log(level, "%s; trying again%s", again.error.message, _so_long(patience))
        time.sleep(pause)
    raise AssertionError("counting never ends")


def _so_long(patience: Patience) -> str:
    return f" for up to {patience.seconds:.0f} s" if isfinite(patience.seconds) else ""


@contextmanager
def connection_trouble(method: str, url: httpx.URL, advice: str = "") -> Iterator[None]:
    """Turns what httpx raises into `Unavailable` that names the URL, to be tried again where that can help.

    The advice is attached as a note.
    """
    try:
        yield
    except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
        away = Unavailable(f"{method} {shown(url)} got no answer: {str(error) or type(error).__name__}")
        if advice:
            away.add_note(advice)
        raise TryAgain(away) from error
    except httpx.HTTPError as error:
        raise Unavailable(f"{method} {shown(url)} failed: {error}") from error


def refused(reply: httpx.Response, passing: frozenset[int] = PASSING) -> VLyardError | TryAgain:
    """What to raise for a reply that is no success: the error it stands for, or the wish to try again."""
    error = error_of(reply)
    if reply.status_code in passing or isinstance(error, InFlight):
        return TryAgain(error, retry_after(reply.headers.get("Retry-After", "")))
    return error


def retry_after(value: str) -> float:
    """The seconds that a Retry-After header asks for, given as a number or as a date (RFC 9110, 10.2.3)."""
    if value.isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
