"""What a benchmark is: our way and the baseline, measured in turns in the same run, told as a ratio of medians."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROUNDS = 5
_FSYNCS = 50


@dataclass(frozen=True)
class Figure:
    """One measured comparison. `better` says which way is up; the ratio is ours to the baseline's."""

    name: str
    unit: str
    better: str  # "more" or "less"
    ours: float
    baseline_name: str
    baseline: float

    @property
    def ratio(self) -> float:
        return self.ours / self.baseline


def in_turns(ours: Callable[[], float], baseline: Callable[[], float], rounds: int = ROUNDS) -> tuple[float, float]:
    """The medians of both, measured alternately so that a noisy machine is noisy for both; the first turn warms up."""
    ours(), baseline()
    pairs = [(ours(), baseline()) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def fsync_rate() -> float:
    """How many small writes a second this disk makes durable: what bounds every queue on it."""
    with TemporaryDirectory() as folder, (Path(folder) / "probe").open("wb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(_FSYNCS):
            file.write(b"x" * 512)
            os.fsync(file.fileno())
        return _FSYNCS / (time.perf_counter() - began)
