"""Running a handler in a process group of its own, which can be killed at any moment.

The child is a fresh interpreter, never a fork. Its standard input brings the assignment and then stays open: when it
closes, whatever the reason, the child kills its group, so that no worker's death leaves an orphan. What the child has
to say comes back through a pipe, one JSON document a line.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from vlyard.errors import ChildDied, WorkerStopping
from vlyard.files import Stored
from vlyard.jobs.kinds import KINDS
from vlyard.jobs.view import Failure
from workers.context import Checkpoint
from workers.lease import Hold
from workers.logs import AttemptLog

# A child reaches the artefact store and nothing else of ours.
_KEPT_FROM_CHILDREN = {"VLYARD_DATABASE_URL", "VLYARD_REDIS_URL", "VLYARD_FLOWER_PASSWORD"}

_LAST_WORDS_SECONDS = 5.0  # for what was printed and not read yet, once the group is dead


class Assignment(BaseModel):
    """What a child is told to do."""

    kind: str
    spec: dict[str, object]
    job: UUID
    attempt: int
    folder: Path
    inputs: list[Stored]
    prefix: str
    resume: Checkpoint | None = None
    shortages: int = 0
    named: dict[str, UUID] = {}


class Report(BaseModel):
    """What a child says: how far it is, what it measured and kept, or how it ended."""

    progress: tuple[float | None, str] | tuple[float | None, str, float, str] | None = None
    metrics: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    result: dict[str, object] | None = None
    published: list[Stored] = []
    failure: Failure | None = None


class HandlerFailed(Exception):
    """The handler failed in its own process, and this is what it said."""

    def __init__(self, failure: Failure, rescued: Sequence[Stored] = ()) -> None:
        self.failure, self.rescued = failure, rescued
        super().__init__(failure.message)


def run_isolated(
    assignment: Assignment,
    hold: Hold,
    grace_seconds: float,
    log: AttemptLog | None = None,
    *,
    kept: Callable[[Checkpoint], None] = lambda _: None,
    leaving_seconds: float = 0.0,
) -> Report:
    """Run the assignment's handler in a child; returns its last report, which carries the result.

    A child that was asked to stop is killed after its grace; one that resumes, and stops with its worker, has
    `leaving_seconds` besides, to keep where it is. Each checkpoint goes to `kept`, also those that come after that.
    What the child and its own children print goes to the log, whole by the time this returns or raises; without a
    log, to where this process prints. Raises `HandlerFailed` with what the handler said, `ChildDied` where it died
    in silence, and the hold's reason where it was stopped.
    """
    with _child(log) as (process, speech):
        resumes = KINDS[assignment.kind].resumes

        def stop() -> None:
            more = leaving_seconds if resumes and isinstance(hold.stop_reason, WorkerStopping) else 0.0
            # Who resumes has the others of its group stop where it can go on.
            _end_group(process, grace_seconds + more, tell_all=not resumes)

        hold.on_stop = stop
        if hold.stop_reason is not None:
            stop()
        assert process.stdin is not None
        last = Report()
        with suppress(BrokenPipeError):  # it died before it could listen: its exit says the rest
            process.stdin.write(assignment.model_dump_json().encode() + b"\n")
            process.stdin.flush()
        for line in speech:
            last = Report.model_validate_json(line)
            _pass_on(last, hold, kept)
        code = process.wait()
        hold.on_stop = lambda: None
    if last.result is None or not isinstance(hold.stop_reason, WorkerStopping):
        hold.check()  # what was finished while its worker left is not done again
    if last.failure is not None:
        raise HandlerFailed(last.failure, last.published)
    if last.result is None:
        raise ChildDied(f"the process that ran the attempt {_told(code)} before it said anything")
    return last


def _pass_on(said: Report, hold: Hold, kept: Callable[[Checkpoint], None]) -> None:
    tell: Callable[..., None] = hold.tell
    if said.progress is not None:
        tell(*said.progress)
    if said.metrics is not None:
        hold.note(said.metrics)
    if said.checkpoint is not None:
        kept(said.checkpoint)


@contextmanager
def _child(log: AttemptLog | None) -> Iterator[tuple["subprocess.Popen[bytes]", Iterator[bytes]]]:
    read_end, write_end = os.pipe()
    environment = {name: value for name, value in os.environ.items() if name not in _KEPT_FROM_CHILDREN}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "workers.child", str(write_end)],
        stdin=subprocess.PIPE,
        stdout=None if log is None else subprocess.PIPE,
        stderr=None if log is None else subprocess.STDOUT,
        pass_fds=(write_end,),
        start_new_session=True,
        env=environment,
    )
    os.close(write_end)
    listener = threading.Thread(target=_listen, args=(process, log), name="child's output", daemon=True)
    listener.start()
    try:
        with os.fdopen(read_end, "rb") as speech:
            yield process, speech
    finally:
        _kill_group(process.pid)  # it may have left grandchildren
        process.wait()
        listener.join(_LAST_WORDS_SECONDS)
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()


def _listen(process: "subprocess.Popen[bytes]", log: AttemptLog | None) -> None:
    if log is None or process.stdout is None:
        return
    with process.stdout as pipe:
        while said := os.read(pipe.fileno(), 2**16):
            log.feed(said)
    log.end()


def _end_group(process: "subprocess.Popen[bytes]", grace_seconds: float, *, tell_all: bool) -> None:
    """Ask the group, or its first process, to end, and kill all when the time is over. Returns at once."""
    try:
        (os.killpg if tell_all else os.kill)(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    timer = threading.Timer(grace_seconds, _kill_group, (process.pid,))
    timer.daemon = True
    timer.start()


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _told(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name
    hint = ", as the system does when memory runs out," if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
