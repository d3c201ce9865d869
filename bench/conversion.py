"""Pictures a second that the converter handles.

The baseline is the loop of the tutorial that people run today: it reads labels and writes JSON. The converter also
decodes each picture, accounts for every line and copies the pictures into the dataset: the ratio says what that costs.
"""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.figure import Figure, in_turns
from bench.stage import Stage
from vlyard.demo.shapes import draw_dataset
from vlyard.formats.convert import Options, convert
from vlyard.jobs.conversion import DEFAULT_PROMPT

_PICTURES = 300


def measure(_: Stage) -> Sequence[Figure]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw_dataset(folder / "set", _PICTURES, seed=1)
        ours, theirs = in_turns(lambda: _ours(folder), lambda: _tutorial(folder / "set"))
    return [Figure("conversion", "pictures/s", "more", ours, "the tutorial's loop", theirs)]


def _ours(folder: Path) -> float:
    options = Options(name="bench", prompt=DEFAULT_PROMPT, policy="fix", keep_empty=True)
    began = time.perf_counter()
    convert(folder / "set", folder / "out", options, lambda *_: None)
    spent = time.perf_counter() - began
    shutil.rmtree(folder / "out")
    return _PICTURES / spent


def _tutorial(folder: Path) -> float:
    began = time.perf_counter()
    samples = []
    for picture in sorted((folder / "images").iterdir()):
        boxes = []
        for line in (folder / "labels" / f"{picture.stem}.txt").read_text().splitlines():
            number, x, y, width, height = line.split()
            corners = (
                float(x) - float(width) / 2,
                float(y) - float(height) / 2,
                float(x) + float(width) / 2,
                float(y) + float(height) / 2,
            )
            boxes.append({"class_id": int(number), "bbox_2d": [round(max(0, min(1, v)) * 1000) for v in corners]})
        turns = [{"from": "human", "value": DEFAULT_PROMPT}, {"from": "gpt", "value": json.dumps({"objects": boxes})}]
        samples.append({"conversations": turns, "images": [str(picture)]})
    (folder / "tutorial.json").write_text(json.dumps(samples, indent=2))
    return _PICTURES / (time.perf_counter() - began)
