"""One conversion in a process of its own: how long it takes, and how much memory it and its helpers hold at most."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.tutorial import write_samples
from vlyard.formats.convert import convert
from vlyard.jobs.conversion import ConversionOptions

_EVERY_SECONDS = 0.01


def run(source: Path, output: Path, check: str, processes: int, to: str = "sharegpt") -> None:
    """Convert into samples that name the source's own pictures, as those of the tutorial's script do."""
    options = ConversionOptions.model_validate({"name": "bench", "to": to, "check": check})
    convert(source, output, options, lambda *_: None, pictures="keep", processes=processes)


def seconds_alone(source: Path, output: Path, way: str, processes: int = 1) -> float:
    """How long a fresh process needs, once it has imported everything; `way` is a check, or `tutorial` for the loop."""
    done = subprocess.run(_words(source, output, way, processes), check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def _words(source: Path, output: Path, way: str, processes: int) -> Sequence[str]:
    return [sys.executable, "-m", "bench.converting", str(source), str(output), way, str(processes)]


def peak_mebibytes(source: Path, output: Path, check: str, processes: int) -> float:
    """The most that a fresh process and its children held together: what is shared among them counts once."""
    with subprocess.Popen(_words(source, output, check, processes), stdout=subprocess.DEVNULL) as child:
        root, most = psutil.Process(child.pid), 0
        while child.poll() is None:
            most = max(most, _held(root))
            time.sleep(_EVERY_SECONDS)
    if child.returncode:
        raise RuntimeError(f"the conversion ended with {child.returncode}")
    return most / 2**20


def _held(root: psutil.Process) -> int:
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:  # it ended while it was looked at
        return 0
    return total


def _timed(source: Path, output: Path, way: str, processes: int) -> float:
    began = time.perf_counter()
    if way == "tutorial":
        write_samples(source, output)
    else:
        run(source, output, way, processes)
    return time.perf_counter() - began


if __name__ == "__main__":
    print(_timed(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
