"""Pictures a second that the converter handles, and the memory that it takes.

The baseline is the loop of the tutorial that people run today: it reads labels and writes JSON, and looks at no
picture. Ours writes the samples of the same boxes (first of all, and untimed, the very same file: both do the same
work) and accounts for every line; with the check it also reads each picture's header, EXIF and end. Each
is done in a process of its own, as a command is, and counts from when that has imported what it needs. Beside it stands
the loader of supervision. Memory is that of all processes together.
"""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.converting import peak_mebibytes, run, seconds_alone
from bench.figure import Figure, in_turns
from bench.labelled import write_set
from bench.stage import Stage
from bench.tutorial import write_samples

_FEW, _MANY = 2_000, 20_000  # pictures
_CORES = len(os.sched_getaffinity(0))


def measure(_: Stage) -> Sequence[Figure]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        many, few = write_set(folder / "many", _MANY), write_set(folder / "few", _FEW)
        theirs = folder / "tutorial.json"
        write_samples(many, theirs)
        run(many, folder / "same", "none", _CORES, to="tutorial")
        if (folder / "same" / "bench.json").read_bytes() != theirs.read_bytes():
            raise RuntimeError("the converter does not write what the tutorial's loop writes")
        tutorial, header, none, supervision = in_turns(
            lambda: _MANY / seconds_alone(many, theirs, "tutorial"),
            lambda: _ours(many, folder / "ours", "header"),
            lambda: _ours(many, folder / "ours", "none"),
            lambda: _supervision(many),
        )
        memory = [peak_mebibytes(each, folder / f"{each.name}-out", "header", _CORES) for each in (few, many)]
    loop, loader = "the tutorial's loop", "supervision.DetectionDataset.from_yolo"
    unit = "pictures/s"
    return [
        Figure(f"conversion, {_CORES} processes, headers and EXIF checked", unit, "more", header, loop, tutorial, 1),
        Figure(f"conversion, {_CORES} processes, unchecked", unit, "more", none, loop, tutorial, 2),
        Figure("conversion, beside a loader", unit, "more", header, loader, supervision),
        Figure(f"memory at {_MANY:,} pictures", "MiB", "less", memory[1], f"at {_FEW:,}", memory[0], 1.1),
    ]


def _ours(source: Path, output: Path, check: str) -> float:
    seconds = seconds_alone(source, output, check, _CORES)
    shutil.rmtree(output)
    return _MANY / seconds


def _supervision(folder: Path) -> float:
    from supervision import DetectionDataset  # heavy

    began = time.perf_counter()
    DetectionDataset.from_yolo(
        str(folder / "images" / "train"), str(folder / "labels" / "train"), str(folder / "data.yaml")
    )
    return _MANY / (time.perf_counter() - began)
