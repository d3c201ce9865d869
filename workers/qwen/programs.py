"""Other programs, run to their end or until it is time to stop."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_LOOK_SECONDS = 0.5


def run_program(
    words: Sequence[str], said: Path, check: Callable[[], None], environment: Mapping[str, str] | None = None
) -> int:
    """Run a program with all that it says going to the file `said`; returns its code, negative for a signal.

    `check` is called twice a second; what it raises ends the program and comes out unchanged.
    """
    with said.open("wb") as output:
        process = subprocess.Popen(words, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                check()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_SECONDS)
        finally:
            process.kill()
            process.wait()
    return process.returncode


def last_words(said: Path) -> str:
    """The last line that a program wrote."""
    return said.read_text("utf-8", "replace").strip().rpartition("\n")[2]
