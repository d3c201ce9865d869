"""Workers of which one is killed by the clock: `python -m tests.faults.short_lives <file> <every> <alive>`.

A worker takes more than a second to import what it is made of, so that no machine could start one as often as one is
killed here. All of these are forks of this process, which has imported that, and has neither threads nor connections.
Each kill is a line in the file: the worker's name, when it was killed, in seconds, and how it ended.
"""

import gc
import itertools
import json
import os
import signal
import sys
import time
import traceback
from collections import deque
from importlib import import_module
from pathlib import Path

from control.artefacts import ArtefactStore
from control.settings import load_settings
from vlyard.jobs.kinds import Device
from workers.commands import worker

# What a worker imports only once it works.
_LATE = (
    "celery.app.amqp", "celery.app.control", "celery.app.events", "celery.app.log", "celery.apps.worker",
    "celery.backends.base", "celery.concurrency.thread", "celery.fixups.django", "celery.worker.autoscale",
    "celery.worker.components", "celery.worker.consumer", "celery.worker.consumer.delayed_delivery",
    "celery.worker.strategy", "control.logs", "kombu.pidbox", "kombu.transport.redis",
    "sqlalchemy.dialects.postgresql.psycopg", "workers.app", "workers.noop",
)  # fmt: skip


def main(told: Path, every_seconds: float, alive: int) -> None:
    """At each tick have one worker begin and, once so many live, the oldest die; for ever."""
    for name in _LATE:
        import_module(name)
    ArtefactStore(load_settings())  # what boto3 knows of S3 is read once for all
    gc.collect()
    gc.freeze()  # so that no child looks through it, and copies it with that
    living: deque[tuple[str, int]] = deque()
    with told.open("w", buffering=1) as lines:
        due = time.monotonic()
        for number in itertools.count():
            due = max(due + every_seconds, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            if len(living) == alive:
                lines.write(json.dumps(_kill(*living.popleft())) + "\n")
            living.append(_begin(f"worker-{number}"))


def _kill(name: str, pid: int) -> tuple[str, float, int]:
    os.kill(pid, signal.SIGKILL)
    at = time.monotonic()
    return name, at, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _begin(name: str) -> tuple[str, int]:
    """Fork a worker; returns its name and pid."""
    pid = os.fork()
    if pid:
        return name, pid
    try:
        worker(Device.CPU, kinds="noop", slots=1, name=name)
    except BaseException:  # noqa: BLE001  # this is a child: nothing may go on where the parent would
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
