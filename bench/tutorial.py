"""What the tutorial's script does with a YOLO folder: the loop that people run today, on one core.

As the script does it: by os.path and by lines, all samples in one list, written indented at the end.
"""

import json
import os
from pathlib import Path

from bench.labelled import NAMES
from vlyard.jobs.conversion import DEFAULT_PROMPT

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def write_samples(folder: Path, output: Path) -> None:
    """Read the labels of `folder` as Ultralytics lays them out, and write the samples of all its pictures."""
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
