"""Any exception that ends an attempt, told as a `Failure`: what happened, whose fault, what to do."""

import errno

from vlyard.errors import Complaint, DiskFull, OutOfMemory, VLyardError
from vlyard.jobs.view import Failure


def failure_of(error: BaseException) -> Failure:
    """What to record of an exception. One that nobody foresaw is told by its type, and tried again."""
    if not isinstance(error, VLyardError):
        error = _foreseen(error)
    complaints = tuple(Complaint(_readable(c.where), _readable(c.what), _readable(c.fix)) for c in error.complaints)
    return Failure(code=error.code, message=_readable(error.message), blame=error.blame, complaints=complaints)


def _readable(text: str) -> str:
    # A file's name that is not UTF-8 comes as lone surrogates, which neither JSON nor the database can hold.
    return text.encode("utf-8", "backslashreplace").decode()


def _foreseen(error: BaseException) -> VLyardError:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's, on CUDA
        return OutOfMemory()
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull()
    where = type(error).__name__
    return VLyardError(
        "the handler failed in a way that it does not foresee", [Complaint(where, str(error) or "no message")]
    )
