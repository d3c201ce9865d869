"""Processes that do chunks of work side by side, their results in the order of the chunks.

Helpers are started afresh (`exec`, never `fork`), are told the work once, and speak pickles over their pipes. A helper
whose pipe closes ends by itself, so that none outlives whoever started it. The starting process works, too, whenever
it would have to wait.
"""

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from vlyard.errors import ChildDied
from vlyard.formats.member import Doing, receive, send

# Ctrl-C is for whoever starts us: our pipe closes then. What the work is made of is loaded while the source is still
# looked at.
_START = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
import vlyard.formats.work
from vlyard.formats.member import serve
serve()
"""
_AHEAD = 3  # chunks that a helper is given before it is done with the first, so that it never waits for the next
_PIPE = 2**20  # bytes: a chunk's result fits in, so that no helper waits for its reader; the most that Linux gives
Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
Waiting = queue.SimpleQueue[tuple[Any, "Future[Any]"] | None]  # chunks that nobody has begun; None: there are no more


class Crew:
    """This process and its helpers, which are started at once and are told their work later.

    `processes` is how many there are together. As a context it ends them, also where their work was not done.
    """

    def __init__(self, processes: int) -> None:
        self._members = [_Member() for _ in range(processes - 1)]
        self._waiting: Waiting | None = None

    def in_order(self, work: Doing[Chunk, Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
        """The result of every chunk, in order. To be called again only when all are taken, and with the same work.

        Holds a few chunks and results at a time. What a chunk raises is raised in its turn. Raises `ChildDied` where
        a helper ended before its work was done.
        """
        if not self._members:
            yield from map(work.do, chunks)
            return
        if self._waiting is None:
            self._waiting = queue.SimpleQueue()
            told = pickle.dumps(work, pickle.HIGHEST_PROTOCOL)
            for member in self._members:
                member.tell(told, self._waiting)
        waiting = self._waiting
        helpers = len(self._members)
        begun: deque[Future[Result]] = deque()
        for chunk in chunks:
            future: Future[Result] = Future()
            waiting.put((chunk, future))
            begun.append(future)
            while len(begun) > helpers * (_AHEAD + 2) + 2:
                # One for each helper is left to wait: the next is theirs before it is ours.
                yield _finished(begun.popleft(), work, waiting, spared=helpers)
        while begun:
            yield _finished(begun.popleft(), work, waiting, spared=0)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            member.stop()  # all of them first: they take the end of the queue from each other
        for member in self._members:
            member.join()


def _finished(future: "Future[Result]", work: Doing[Chunk, Result], waiting: "Waiting", *, spared: int) -> Result:
    """The result; while it is not there, this process does what nobody has begun, but for so many chunks."""
    while not future.done() and waiting.qsize() > spared:
        try:
            taken = waiting.get_nowait()
        except queue.Empty:
            break
        assert taken is not None  # the end comes after the last result
        chunk, other = taken
        try:
            other.set_result(work.do(chunk))
        except BaseException as error:  # noqa: BLE001 - it is raised in its turn
            other.set_exception(error)
    return future.result()


class _Member:
    """A helper: one process, the thread that gives it chunks, and the thread that takes its results."""

    def __init__(self) -> None:
        self.process = _started()
        self.given: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        self.room = threading.Semaphore(_AHEAD)
        self.gone = False
        self.threads: list[threading.Thread] = []
        self.waiting: Waiting = queue.SimpleQueue()

    def tell(self, told: bytes, waiting: "Waiting") -> None:
        """Tell the work, and where its chunks wait."""
        self.waiting = waiting
        self.threads = [
            threading.Thread(target=self._give, args=(told,), daemon=True),
            threading.Thread(target=self._take, daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _give(self, told: bytes) -> None:
        pipe = self.process.stdin
        assert pipe is not None
        try:
            send(pipe, told)
            while True:
                self.room.acquire()
                item = None if self.gone else self.waiting.get()
                if item is None:
                    break
                chunk, future = item
                self.given.put(future)
                send(pipe, pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
        except OSError:
            pass  # it is gone: whoever takes its results sees that, and says so
        self.given.put(None)

    def _take(self) -> None:
        pipe = self.process.stdout
        assert pipe is not None
        while (future := self.given.get()) is not None:
            data = receive(pipe)
            if data is None:
                self.gone = True
                future.set_exception(ChildDied(f"A helper process ended early, with status {self.process.wait()}"))
            else:
                done, value = pickle.loads(data)  # noqa: S301 - from our own child
                if done:
                    future.set_result(value)
                else:
                    future.set_exception(value)
            self.room.release()

    def stop(self) -> None:
        """End the process, at once where it is still busy, and tell the threads."""
        self.process.kill()
        self.process.wait()
        self.gone = True
        self.waiting.put(None)
        self.room.release()

    def join(self) -> None:
        """Wait until the threads have noticed."""
        for thread in self.threads:
            thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was not sent cannot be
                pipe.close()


def _started() -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-c", _START]
    try:
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=_PIPE)
    except PermissionError:  # whoever has many pipes open gets no more wide ones
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many cores this process may use: by its affinity, and by the quota of its container (cgroup v2), if any."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return min(cores, max(1, int(allowed) // int(period)))
    except (OSError, ValueError):  # no such file, or `max`
        return cores
