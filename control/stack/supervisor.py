"""Starts processes, waits until they are ready, starts them again when they die, and ends them all.

Each process has a session, and with it a process group, of its own. A guard (`guard.py`) ends the groups where the
supervisor itself is killed. The supervisor knows nothing of what it runs.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Self

from control.stack import guard
from control.stack.guard import Group, start_mark
from vlyard.errors import Unavailable

_LOG = logging.getLogger(__name__)
# A started process waits at this gate until the guard has been told of it, so that there is no moment in which
# the supervisor's death leaves an orphan: the gate's pipe closes with the supervisor, and `read` fails.
_GATE = ("/bin/sh", "-c", 'read -r open && exec "$@" </dev/null', "gate")
_SHORTEST_PAUSE, _LONGEST_PAUSE, _LONG_LIFE = 1.0, 30.0, 60.0  # seconds
_TAIL_LINES = 15


@dataclass(frozen=True)
class Process:
    """How a process is started, known to be ready, and stopped."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool]  # answers within a second or two
    environment: Mapping[str, str] = field(default_factory=dict)  # on top of the supervisor's own
    folder: Path | None = None  # its working directory
    stop_signal: signal.Signals = signal.SIGTERM
    litter: tuple[str, ...] = ()  # files that it leaves behind, to be removed when it has ended
    patience: float = 60  # seconds until it has to be ready
    grace: float = 10  # seconds from the stop signal to SIGKILL


@dataclass
class _Running:
    process: Process
    popen: subprocess.Popen[bytes]
    group: Group
    log: Path
    log_start: int  # where in the log this start's lines begin
    batch: int  # processes of one batch are stopped side by side, the last batch first
    started: float = field(default_factory=time.monotonic)
    pause: float = 0  # the last pause before a restart, in seconds
    due: float | None = None  # when to start it again


class Supervisor:
    """The processes of one stack. Use it as a context manager: leaving ends them, the last batch first.

    `inherit` are file descriptors that the guard keeps open: a lock among them stays taken until nothing is left.
    """

    def __init__(self, logs: Path, say: Callable[[str], None] = _LOG.info, inherit: Iterable[int] = ()) -> None:
        self._logs = logs
        self._say = say
        self._inherit = tuple(inherit)
        self._running: dict[str, _Running] = {}
        self._batch = 0

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._guard = self._start_guard()
        return self

    def __exit__(self, *_: object) -> None:
        for batch in sorted({running.batch for running in self._running.values()}, reverse=True):
            self.end(*(name for name, running in self._running.items() if running.batch == batch))
        self._tell("goodbye")
        self._guard.communicate()

    def pid(self, name: str) -> int:
        """The pid of a running process, which is also the number of its group."""
        return self._running[name].popen.pid

    def pids(self) -> dict[str, int]:
        """The pids of everything that was started and not ended, the guard's too."""
        return {"guard": self._guard.pid} | {name: running.popen.pid for name, running in self._running.items()}

    def start(self, *processes: Process) -> None:
        """Start the processes side by side, as a batch, and wait until each is ready.

        Raises `Unavailable`, with the last lines of its log, where one ends or is not ready in its time.
        """
        self._batch += 1
        for process in processes:
            self.launch(process)
        for process in processes:
            self.await_ready(process.name)

    def launch(self, process: Process) -> None:
        """Start a process, in the current batch, without waiting for it."""
        log = self._logs / f"{process.name}.log"
        with log.open("ab") as output:
            log_start = output.tell()
            popen = subprocess.Popen(
                _GATE + process.command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=process.folder,
                env={**os.environ, **process.environment},
                start_new_session=True,
            )
        group = Group(popen.pid, start_mark(popen.pid), process.stop_signal, process.litter)
        self._running[process.name] = _Running(process, popen, group, log, log_start, self._batch)
        self._tell("started", *astuple(group))
        if popen.stdin is not None:
            with suppress(BrokenPipeError):  # it was killed already
                popen.stdin.write(b"open\n")
                popen.stdin.close()

    def await_ready(self, name: str) -> None:
        """Wait until a launched process is ready; raises `Unavailable` as `start` does."""
        running = self._running[name]
        deadline = running.started + running.process.patience
        while running.popen.poll() is None:
            if running.process.ready():
                return
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{name} was not ready within {running.process.patience:.0f} s. {_last_lines(running)}"
                )
            time.sleep(0.05)
        raise Unavailable(f"{name} ended with code {running.popen.returncode} while it started. {_last_lines(running)}")

    def tend(self) -> None:
        """Start again what has ended by itself, after a pause that grows with each time. Call it every second or so."""
        if self._guard.poll() is not None:
            self._guard = self._start_guard()
            for running in self._running.values():
                self._tell("started", *astuple(running.group))
        for running in tuple(self._running.values()):
            if running.popen.poll() is not None:
                self._restart(running, time.monotonic())

    def _restart(self, running: _Running, now: float) -> None:
        if running.due is None:
            lived_long = now - running.started > _LONG_LIFE
            running.pause = (
                _SHORTEST_PAUSE if lived_long else min(max(_SHORTEST_PAUSE, 2 * running.pause), _LONGEST_PAUSE)
            )
            running.due = now + running.pause
            self._say(
                f"{running.process.name} ended with code {running.popen.returncode}; it starts again in "
                f"{running.pause:.0f} s. {_last_lines(running)}"
            )
            running.group.kill()
            self._tell("ended", running.group.pid)
        elif now >= running.due:
            self.launch(running.process)
            again = self._running[running.process.name]
            again.pause, again.batch = running.pause, running.batch

    def end(self, *names: str) -> None:
        """Stop processes side by side: the stop signal, the grace, then SIGKILL for the whole group of each."""
        ending = [self._running[name] for name in names]
        for running in ending:
            running.group.stop()
        asked = time.monotonic()
        for running in ending:
            process = running.process
            try:
                running.popen.wait(max(0, asked + process.grace - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._say(f"{process.name} did not stop within {process.grace:.0f} s and was killed")
            running.group.kill()
            running.popen.wait()
            running.group.sweep()
            self._tell("ended", running.group.pid)
            del self._running[process.name]

    def kill(self, name: str) -> None:
        """Send SIGKILL to the group of a process, as a machine that dies would. `tend` and `start` start it again."""
        running = self._running[name]
        running.group.kill()
        running.popen.wait()

    def _start_guard(self) -> subprocess.Popen[str]:
        with (self._logs / "guard.log").open("ab") as output:
            return subprocess.Popen(
                (sys.executable, "-I", "-S", str(guard.__file__)),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=self._inherit,
                start_new_session=True,
            )

    def _tell(self, *word: object) -> None:
        """Tell the guard, who is replaced by `tend` where it was killed: that must not keep us from stopping."""
        if self._guard.stdin is not None:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(json.dumps(word) + "\n")
                self._guard.stdin.flush()


def _last_lines(running: _Running) -> str:
    with running.log.open("rb") as log:
        log.seek(running.log_start)
        lines = log.read()[-20_000:].decode(errors="replace").splitlines()[-_TAIL_LINES:]
    said = "\n".join(f"  | {line}" for line in lines) or "  | (nothing)"
    return f"The last lines of {running.log}:\n{said}"
