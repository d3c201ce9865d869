"""An exported folder, asked by the lines of its own model card: plain transformers, and nothing of VLyard."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from vlyard.errors import VLyardError

_CARD = "README.md"
_BLANKS = ("<this folder>", "<a picture>")  # what a card leaves to its reader
_PATIENCE = 600  # seconds


def code_of(folder: Path, picture: Path) -> str:
    """The card's lines with the folder and a picture filled in. Raises `VLyardError` where it has none."""
    found = re.search(r"```python\n(.*?)```", (folder / _CARD).read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise VLyardError(f"{folder / _CARD} shows no lines that load the model")
    code = found[1]
    for blank, path in zip(_BLANKS, (folder, picture), strict=True):
        code = code.replace(json.dumps(blank), json.dumps(str(path), ensure_ascii=False))
    return code


def expect_same(answer: str, told: str, *, whole: bool) -> None:
    """Raise `VLyardError` where plain transformers do not say what a job's answer was, word for word.

    An answer that a job stopped, because it was long or repeated itself, is not `whole`: they go on there.
    """
    answer, told = answer.strip(), told.strip()
    if not (answer == told if whole else answer.startswith(told)):
        raise VLyardError(f"plain transformers answer {answer!r} where the job's answer was {told!r}")


def answer_of(code: str) -> str:
    """What the lines print, in a fresh process that reaches no hub. Raises `VLyardError` with its last words."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    if ran.returncode:
        last = ran.stderr.strip().rpartition("\n")[2]
        raise VLyardError(f"plain transformers cannot open the export: {last}")
    return ran.stdout.strip()
