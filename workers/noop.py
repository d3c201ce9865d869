"""The job that does nothing, carefully."""

import os
import signal
import time

from vlyard.errors import Unavailable, UserError
from vlyard.jobs.noop import NoopResult, NoopSpec
from workers.context import Context

_STEP_SECONDS = 0.05


def run(spec: NoopSpec, context: Context) -> NoopResult:
    """Wait as long as asked, with an ear for cancelling; fail if asked to, or take the worker along."""
    end = time.monotonic() + spec.seconds
    while (left := end - time.monotonic()) > 0:
        context.progress(1 - left / spec.seconds, "waiting")
        time.sleep(min(left, _STEP_SECONDS))
    if spec.crash:
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.fail:
        raise UserError(spec.fail)
    if context.attempt <= spec.fail_transiently:
        raise Unavailable(f"attempt {context.attempt} fails, as asked")
    return NoopResult(echo=spec.echo, attempt=context.attempt)
