"""A helper of a crew: a process that is told its work once, then does chunks of it until its pipe closes.

It loads little, since every helper does before it can begin.
"""

import gc
import pickle
import struct
import sys
from typing import Any, Protocol, TypeVar

_LENGTH = struct.Struct("!Q")
Chunk_contra = TypeVar("Chunk_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Doing(Protocol[Chunk_contra, Result_co]):
    """Something that can be pickled and knows how to do a chunk."""

    def do(self, jobs: Chunk_contra, /) -> Result_co:
        """Do one chunk."""


def serve() -> None:
    """Be a helper: read the work, then do chunks until the pipe closes."""
    pipe_in, pipe_out = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may speak on the pipe
    told = receive(pipe_in)
    if told is None:
        return
    work = pickle.loads(told)  # noqa: S301 - from our own parent
    gc.freeze()  # what is loaded stays: the collector need not look at it again and again
    try:
        while (data := receive(pipe_in)) is not None:
            send(pipe_out, _answer(work, data))
    except BrokenPipeError:
        sys.stderr.close()  # whoever asked is gone


def _answer(work: Doing[Any, Any], data: bytes) -> bytes:
    try:
        return pickle.dumps((True, work.do(pickle.loads(data))), pickle.HIGHEST_PROTOCOL)  # noqa: S301
    except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
        return pickle.dumps((False, error), pickle.HIGHEST_PROTOCOL)


def send(pipe: Any, data: bytes) -> None:
    """Write one message: its length in 8 bytes, then the bytes."""
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def receive(pipe: Any) -> bytes | None:
    """The next message; None where the other side is gone."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data: bytes = pipe.read(length)
    return data if len(data) == length else None
