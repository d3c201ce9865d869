"""Every error that VLyard raises on purpose: one tree, read from the top.

A class's docstring is its message. Its `code` is what programs compare, and its `blame` decides whether an
attempt that ended with it is tried again. The HTTP status is decided in one place, `vlyard/problems.py`.
"""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Self


class Blame(StrEnum):
    """Why an attempt ended badly, and with it whether the next attempt can go better."""

    USER = "user"  # the input is wrong: the same attempt fails again, so there is no next one
    TRANSIENT = "transient"  # something around the job failed: try again, later each time
    OUTAGE = "outage"  # a server that every attempt needs is away: try again, later each time, for much longer
    LOST = "lost"  # the worker vanished: try again at once
    OOM = "oom"  # memory ran out: try once more, when the neighbours may be gone


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong with an input, where it is, and what to do about it."""

    where: str  # a field (`/spec/prompt`), a file and line (`labels/7.txt:3`), or a member of an archive
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.fix})" if self.fix else "")


class VLyardError(Exception):
    """Something went wrong inside VLyard."""

    code: ClassVar[str] = "internal"
    blame: ClassVar[Blame] = Blame.TRANSIENT

    def __init__(self, message: str = "", complaints: Iterable[Complaint] = ()) -> None:
        self.message = message or inspect.getdoc(type(self)) or type(self).__name__
        self.complaints = tuple(complaints)
        super().__init__(self.message)

    def __str__(self) -> str:
        return "; ".join([self.message, *map(str, self.complaints)])

    def __reduce__(self) -> tuple[type[Self], tuple[str, tuple[Complaint, ...]]]:
        return type(self), (self.message, self.complaints)  # an exception's own way would lose the complaints


# --- the caller can fix these ---------------------------------------------------------------------------------


class UserError(VLyardError):
    """The request cannot be carried out as it stands."""

    code = "user_error"
    blame = Blame.USER


class InvalidInput(UserError):
    """The input is not valid."""

    code = "invalid_input"


class UnreadablePicture(InvalidInput):
    """The picture cannot be read."""

    code = "unreadable_picture"


class RefusedArchive(InvalidInput):
    """The archive is refused because unpacking it is not safe."""

    code = "refused_archive"


class Unauthenticated(UserError):
    """The request carries no valid API key. Send `Authorization: Bearer <key>`."""

    code = "unauthenticated"


class Forbidden(UserError):
    """This API key's role does not allow that."""

    code = "forbidden"


class NotFound(UserError):
    """There is no such thing here, or it belongs to another team."""

    code = "not_found"


class Conflict(UserError):
    """The thing is in a state that does not allow that."""

    code = "conflict"


class InFlight(Conflict):
    """Another try of this request is being carried out. Send it again in a moment, with the same key."""

    code = "in_flight"


class IdempotencyMismatch(UserError):
    """This Idempotency-Key was used before with a different request. Use a new key."""

    code = "idempotency_mismatch"


# --- the attempt ended, and this says how ---------------------------------------------------------------------


class Cancelled(UserError):
    """The job was cancelled."""

    code = "cancelled"


class DependencyFailed(UserError):
    """A job that this one waited for did not bring what it needs."""

    code = "dependency_failed"


class VerificationFailed(UserError):
    """The export is not the model that it was made of."""

    code = "verification_failed"


class Expired(UserError):
    """The job was not started before the time at which it expires."""

    code = "expired"


class TimeLimitExceeded(UserError):
    """The attempt ran longer than its time limit."""

    code = "time_limit_exceeded"


class StaleAttempt(VLyardError):
    """The attempt no longer holds its job: another attempt took over, or the job has ended."""

    code = "stale_attempt"
    blame = Blame.LOST


class WorkerStopping(VLyardError):
    """The worker was told to stop. The job goes on with another one."""

    code = "worker_stopping"
    blame = Blame.LOST


class WorkerLost(VLyardError):
    """The worker that ran the attempt stopped renewing its lease."""

    code = "worker_lost"
    blame = Blame.LOST


class ChildDied(VLyardError):
    """The process that ran the attempt died without a word."""

    code = "child_died"
    blame = Blame.LOST


class OutOfMemory(VLyardError):
    """The attempt ran out of memory."""

    code = "out_of_memory"
    blame = Blame.OOM


class DiskFull(VLyardError):
    """The worker's disk is full."""

    code = "disk_full"


# --- the world around is not well -----------------------------------------------------------------------------


class Unavailable(VLyardError):
    """A service that VLyard depends on does not answer."""

    code = "unavailable"
    blame = Blame.OUTAGE


class MissingServer(VLyardError):
    """A server program that VLyard needs is not installed."""

    code = "missing_server"


# --- the client's own -----------------------------------------------------------------------------------------


class JobFailed(VLyardError):
    """The job failed."""

    code = "job_failed"


class WaitTimeout(VLyardError):
    """The job did not end within the time that the caller gave it. It goes on."""

    code = "wait_timeout"
