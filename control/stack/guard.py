"""Ends every process group that a supervisor started, when the supervisor vanishes without a word.

The guard reads its standard input, the read end of a pipe whose only write end is in the supervisor. However the
supervisor ends, SIGKILL included, the kernel closes the pipe; where no "goodbye" came before, what is still alive is
stopped. Runs on the standard library alone: `python guard.py [seconds of grace]`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Group:
    """A process group: its leader's pid, when that leader started, and the signal that stops it well."""

    pid: int
    mark: str  # tells the leader from a later process that got the same pid
    stop_signal: int
    litter: tuple[str, ...] = ()  # files that it leaves behind

    def is_alive(self) -> bool:
        """Whether a process of the group is left. While one is, the kernel gives the group's number to nobody else."""
        if start_mark(self.pid) not in {self.mark, ""}:
            return False
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def stop(self) -> None:
        """Ask the leader to stop, or the others where the leader is gone."""
        send = os.kill if start_mark(self.pid) == self.mark else os.killpg
        self._signal(send, self.stop_signal)

    def kill(self) -> None:
        """Kill every process of the group."""
        self._signal(os.killpg, signal.SIGKILL)

    def sweep(self) -> None:
        """Remove what it left behind."""
        for path in self.litter:
            Path(path).unlink(missing_ok=True)

    def _signal(self, send: Callable[[int, int], None], number: int) -> None:
        if self.is_alive():
            with suppress(ProcessLookupError, PermissionError):  # it ended in between
                send(self.pid, number)


def start_mark(pid: int) -> str:
    """When a living process started, as text that only it has with its pid; empty where there is no such process."""
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return ""
        state, *fields = stat.rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]  # proc(5): field 22, starttime, in clock ticks since boot
    return subprocess.run(
        ("ps", "-o", "lstart=", "-p", str(pid)), check=False, capture_output=True, text=True
    ).stdout.strip()


def end_all(groups: Iterable[Group], grace: float) -> None:
    """Stop the groups at once, in the order given, after `grace` seconds kill what is left of them, and sweep."""
    groups = left = list(groups)
    for group in groups:
        group.stop()
    deadline = time.monotonic() + grace
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [group for group in left if group.is_alive()]
    for group in left:
        group.kill()
    for group in groups:
        group.sweep()


def watch(lines: Iterable[str], grace: float) -> None:
    """Follow a supervisor's words, JSON lists: ["started", <the fields of a Group>], ["ended", pid], ["goodbye"]."""
    groups: dict[int, Group] = {}
    for line in lines:
        word, *rest = json.loads(line)
        if word == "goodbye":
            return
        if word == "started":
            groups[rest[0]] = Group(*rest)
        else:
            groups.pop(rest[0], None)
    end_all(reversed(groups.values()), grace)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watch(sys.stdin, float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)


if __name__ == "__main__":
    main()
