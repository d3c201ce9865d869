"""Pictures a second that the converter handles, and the memory that it takes.

The baseline is the loop of the tutorial that people run today: it reads labels and writes JSON, and looks at no
picture. Ours writes the samples of the same boxes (first of all, and untimed, the very same file: both do the same
work) and accounts for every line; with the check it also reads each picture's header, EXIF and end. Beside it stands
the loader of supervision. Memory is that of all processes together.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.converting import peak_mebibytes, run
from bench.figure import Figure, in_turns
from bench.labelled import NAMES, write_set
from bench.stage import Stage
from vlyard.jobs.conversion import DEFAULT_PROMPT

_FEW, _MANY = 2_000, 20_000  # pictures
_CORES = len(os.sched_getaffinity(0))
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def measure(_: Stage) -> Sequence[Figure]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        many, few = write_set(folder / "many", _MANY), write_set(folder / "few", _FEW)
        theirs = folder / "tutorial.json"
        _tutorial(many, theirs)
        run(many, folder / "same", "none", _CORES, to="tutorial")
        if (folder / "same" / "bench.json").read_bytes() != theirs.read_bytes():
            raise RuntimeError("the converter does not write what the tutorial's loop writes")
        tutorial, header, none, supervision = in_turns(
            lambda: _per_second(lambda: _tutorial(many, theirs)),
            lambda: _ours(many, folder / "ours", "header"),
            lambda: _ours(many, folder / "ours", "none"),
            lambda: _per_second(lambda: _supervision(many)),
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


def _per_second(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return _MANY / (time.perf_counter() - began)


def _ours(source: Path, output: Path, check: str) -> float:
    speed = _per_second(lambda: run(source, output, check, _CORES))
    shutil.rmtree(output)
    return speed


def _supervision(folder: Path) -> None:
    from supervision import DetectionDataset  # heavy

    DetectionDataset.from_yolo(
        str(folder / "images" / "train"), str(folder / "labels" / "train"), str(folder / "data.yaml")
    )


# --- what the tutorial's script does --------------------------------------------------------------------------


def _tutorial(folder: Path, output: Path) -> None:
    # As the script does it: by os.path and by lines, all samples in one list, written indented at the end.
    pictures, labels = str(folder / "images" / "train"), str(folder / "labels" / "train")
    names = dict(enumerate(NAMES))
    samples = []
    for name in sorted(each for each in os.listdir(pictures) if os.path.splitext(each)[1].lower() in _SUFFIXES):  # noqa: PTH122, PTH208
        label = os.path.join(labels, os.path.splitext(name)[0] + ".txt")  # noqa: PTH118, PTH122
        if not os.path.exists(label):  # noqa: PTH110
            continue
        objects = _objects(label, names)
        if not objects:
            continue
        answer = json.dumps({"objects": objects}, ensure_ascii=False)
        turns = [{"from": "human", "value": f"<image>\n{DEFAULT_PROMPT}"}, {"from": "gpt", "value": answer}]
        picture = os.path.abspath(os.path.join(pictures, name))  # noqa: PTH100, PTH118
        samples.append({"conversations": turns, "images": [picture]})
    with open(output, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(samples, file, ensure_ascii=False, indent=2)


def _objects(label: str, names: dict[int, str]) -> list[dict[str, object]]:
    objects = []
    with open(label, encoding="utf-8") as file:  # noqa: PTH123
        for line in file:
            parts = line.strip().split()
            if len(parts) < 5:
                continue
            number = int(parts[0])
            corners = _corners(*map(float, parts[1:5]))
            entry: dict[str, object] = {"class_id": number, "bbox_2d": [round(v * 1000) for v in corners]}
            if number in names:
                entry["label"] = names[number]
            objects.append(entry)
    return objects


def _corners(x: float, y: float, width: float, height: float) -> list[float]:
    edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return [max(0.0, min(1.0, edge)) for edge in edges]
