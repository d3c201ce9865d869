"""What a benchmark is: our way and the baseline, measured in turns in the same run, told as a ratio of medians."""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory

ROUNDS = 5
_FSYNCS = 200


@dataclass(frozen=True)
class Figure:
    """One measured comparison. `better` says which way is up; the ratio is ours to the baseline's."""

    name: str
    unit: str
    better: str  # "more" or "less"
    ours: float
    baseline_name: str
    baseline: float
    bar: float | None = None  # the ratio that it has to reach, or to stay below

    @property
    def ratio(self) -> float:
        return self.ours / self.baseline if self.baseline else math.inf

    @property
    def met(self) -> bool | None:
        """Whether the bar was met; None where there is none."""
        if self.bar is None:
            return None
        return self.ratio >= self.bar if self.better == "more" else self.ratio <= self.bar


def number(value: float) -> str:
    """With three significant digits, and whole from a hundred on: 0.680, 5.23, 1,234."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def in_turns(*ways: Callable[[], float]) -> Sequence[float]:
    """The median of each way, measured by turns so that a noisy machine is noisy for all; the first turn warms up."""
    for way in ways:
        way()
    turns = [[way() for way in ways] for _ in range(ROUNDS)]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def fsync_seconds() -> float:
    """How long this disk takes to make a small write durable, in the median: what bounds every queue on it."""
    with TemporaryDirectory() as folder, (Path(folder) / "probe").open("wb", buffering=0) as file:
        return statistics.median(_fsync(file) for _ in range(_FSYNCS))


def _fsync(file: FileIO) -> float:
    began = time.perf_counter()
    file.write(b"x" * 512)
    os.fsync(file.fileno())
    return time.perf_counter() - began
