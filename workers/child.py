"""The process that runs one isolated handler: `python -m workers.child <fd>`, started by `workers.isolation`."""

import os
import signal
import sys
import threading
import traceback
from typing import BinaryIO

from control.artefacts import ArtefactStore
from control.failures import failure_of
from control.settings import load_settings
from vlyard.errors import VLyardError
from vlyard.files import Stored
from vlyard.jobs.kinds import KINDS
from workers.context import Context
from workers.handlers import load_handler
from workers.isolation import Assignment, Report


def main() -> None:
    """Do one assignment, and say how it went."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "wb", buffering=0) as pipe:
        speech = Speech(pipe)
        stop = threading.Event()
        assignment = Assignment.model_validate_json(sys.stdin.buffer.readline())
        if KINDS[assignment.kind].resumes:  # others end at once when they are asked to
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
        threading.Thread(target=_die_with_parent, daemon=True).start()
        speech.say(_attempt(assignment, speech, stop))


class Speech:
    """What this process tells its worker, one report after the other, from whichever thread."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def say(self, report: Report) -> None:
        line = report.model_dump_json(exclude_defaults=True).encode() + b"\n"
        with self._lock:
            self._pipe.write(line)


def _attempt(assignment: Assignment, speech: Speech, stop: threading.Event) -> Report:
    rescued: list[Stored] = []
    try:
        kind = KINDS[assignment.kind]
        context = Context(
            job=assignment.job,
            attempt=assignment.attempt,
            scratch=assignment.folder,
            inputs={file.id: file for file in assignment.inputs},
            store=ArtefactStore(load_settings()),
            prefix=assignment.prefix,
            tell=lambda *told: speech.say(Report(progress=told)),
            check=lambda: None,  # whoever wants this process to stop kills it
            resume=assignment.resume,
            shortages=assignment.shortages,
            named=assignment.named,
            record=lambda data: speech.say(Report(metrics=dict(data))),
            hand_over=lambda checkpoint: speech.say(Report(checkpoint=checkpoint)),
            stopping=stop.is_set,
            rescued=rescued,
        )
        result = load_handler(kind)(kind.spec.model_validate(assignment.spec), context)
        return Report(result=result.model_dump(mode="json"), published=context.published)
    except Exception as error:  # noqa: BLE001  # the worker is told of everything
        failure = failure_of(error)
        if failure.code == VLyardError.code:
            traceback.print_exc()  # where in our code it was: what the log is for
        return Report(failure=failure, published=rescued)


def _die_with_parent() -> None:
    """Kill this process's whole group when the worker's end of standard input closes."""
    while os.read(sys.stdin.fileno(), 4096):  # not through `sys.stdin`, whose lock this thread would hold at exit
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
