"""One thing after the other that is looked at, each within its time, and what was found. Knows nothing to look at.

The checks of the server's and the workers' packages are found through the entry-point group `vlyard.checks`: each
entry is a function that returns them.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

from vlyard.errors import VLyardError


class Mark(StrEnum):
    """How a check ended."""

    OK = "ok"
    BROKEN = "broken"
    SKIPPED = "skipped"  # it does not concern this machine, or cannot be known from here


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it."""

    mark: Mark
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """One thing to look at. What `look` raises counts as broken; after `seconds` its answer is not waited for."""

    name: str
    look: Callable[[], Finding]
    fix: str = ""  # what to do where `look` raises, or gives no answer in time
    seconds: float = 15.0


@dataclass(frozen=True)
class Checked:
    """A check and its finding."""

    name: str
    mark: Mark
    found: str
    fix: str

    def as_json(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self)


Checks = Callable[[], Iterable[Check]]


def ok(found: str) -> Finding:
    """All is well."""
    return Finding(Mark.OK, found)


def broken(found: str, fix: str) -> Finding:
    """Something has to be mended."""
    return Finding(Mark.BROKEN, found, fix)


def skipped(found: str) -> Finding:
    """There was nothing to look at."""
    return Finding(Mark.SKIPPED, found)


def run(checks: Iterable[Check]) -> Iterator[Checked]:
    """Look at each in turn; none takes longer than its time."""
    for check in checks:
        finding = _within(check)
        yield Checked(check.name, finding.mark, finding.found, finding.fix)


def _within(check: Check) -> Finding:
    answers: queue.Queue[Finding] = queue.Queue()
    # A thread that hangs ends with the process.
    threading.Thread(target=lambda: answers.put(_looked(check)), name=check.name, daemon=True).start()
    try:
        return answers.get(timeout=check.seconds)
    except queue.Empty:
        return broken(f"no answer within {check.seconds:g} s", check.fix)


def _looked(check: Check) -> Finding:
    try:
        return check.look()
    except VLyardError as error:
        return broken(_with_cause(str(error), error), check.fix)
    except Exception as error:  # noqa: BLE001 - whatever fails is what was to be found out
        return broken(_with_cause(f"{type(error).__name__}: {_line(error)}", error), check.fix)


def _with_cause(said: str, error: Exception) -> str:
    """The message, and what it came from where that says more."""
    cause = error.__cause__
    more = _line(cause) if cause else ""
    return f"{said}: {more}" if more and more not in said else said


def _line(error: BaseException) -> str:
    return " ".join(str(error).split("\n(Background on", 1)[0].split())
