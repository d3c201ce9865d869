"""`--to tutorial` writes what the tutorial's own script writes for the same folder, byte for byte, paths aside."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.language.llama_factory import problems
from tests.language.made_records import record, target, written
from vlyard.formats.box import Box
from vlyard.formats.classes import Classes
from vlyard.formats.reading import Refused
from vlyard.formats.record import Look, Record, Target

LABELS = {  # of a flat folder of pictures: what the script reads, and what it leaves out
    "b.JPG": "0 0.5 0.5 0.25 0.5\n2 0.123456 0.654321 0.2 0.3\n",
    "a.png": "1 0.05 0.5 0.2 0.4\n\n  0 1 1 0.5 0.5  \n",
    "empty.jpg": "\n",
    "none.jpg": None,
    "größe 猫.webp": "2 0.5005 0.5015 0.001 0.001\n",
    "z.tif": "0 0.5 0.5 0.5 0.5\n",
}
NAMES = {0: "house", 1: 'a "red" roof'}


def script(
    folder: Path, labels: Mapping[str, str | None], names: Mapping[int, str], only: set[int] | None = None
) -> str:
    """The tutorial's converter, restored: the text of the file that it writes."""

    def inside(value: float) -> float:
        return max(0.0, min(1.0, value))

    data: list[Any] = []
    for picture in sorted(
        name for name in labels if Path(name).suffix.lower() in {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
    ):
        text, objects = labels[picture], []
        for line in (text or "").splitlines():
            fields = line.split()
            if len(fields) < 5 or (only is not None and int(fields[0]) not in only):
                continue
            x, y, width, height = map(float, fields[1:5])
            box = [inside(x - width / 2), inside(y - height / 2), inside(x + width / 2), inside(y + height / 2)]
            entry: dict[str, Any] = {"class_id": int(fields[0]), "bbox_2d": [round(value * 1000) for value in box]}
            if int(fields[0]) in names:
                entry["label"] = names[int(fields[0])]
            objects.append(entry)
        if objects:
            prompt = (
                "<image>\nLocate all objects in this image and output the bbox coordinates in JSON format using "
                "relative coordinates in the range [0, 1000]."
            )
            answer = json.dumps({"objects": objects}, ensure_ascii=False)
            turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
            data.append({"conversations": turns, "images": [str(folder / "images" / picture)]})
    return json.dumps(data, ensure_ascii=False, indent=2)


def records(folder: Path, labels: Mapping[str, str | None], names: Mapping[int, str]) -> list[Record]:
    """The same folder as readers and the pipeline would give it to the writer."""
    made = []
    for index, picture in enumerate(sorted(labels)):
        targets = []
        for line in (labels[picture] or "").splitlines():
            if fields := line.split():
                class_id, box = int(fields[0]), Box.from_centre(*map(float, fields[1:])).clamped()
                targets.append(Target(class_id, names.get(class_id, f"class_{class_id}"), box))
        path = str(folder / "images" / picture)
        made.append(Record(index, path, path, "train", Look(40, 30), tuple(targets)))
    return made


def taken(folder: Path, labels: Mapping[str, str | None], names: Mapping[int, str]) -> list[Record]:
    return [each for each in records(folder, labels, names) if not each.picture.endswith(".tif")]


def test_the_file_is_the_scripts(tmp_path: Path) -> None:
    names = {**NAMES, 2: "dog"}
    written(tmp_path, taken(tmp_path, LABELS, names), Classes(names), to="tutorial")

    assert (tmp_path / "grounding.json").read_text("utf-8") == script(tmp_path, LABELS, names)


def test_a_set_without_names_has_no_labels_as_the_scripts(tmp_path: Path) -> None:
    written(tmp_path, taken(tmp_path, LABELS, {}), Classes(None), to="tutorial")

    assert (tmp_path / "grounding.json").read_text("utf-8") == script(tmp_path, LABELS, {})


def test_many_boxes_are_the_scripts_too(tmp_path: Path) -> None:
    chance = random.Random(4)
    numbers = [[f"{chance.random():.{chance.choice([3, 4, 6, 16])}f}" for _ in range(4)] for _ in range(400)]
    labels = {f"{place}.jpg": f"{place % 2} {' '.join(row)}\n" for place, row in enumerate(numbers)}
    written(tmp_path, records(tmp_path, labels, NAMES), Classes(NAMES), to="tutorial")

    assert (tmp_path / "grounding.json").read_text("utf-8") == script(tmp_path, labels, NAMES)


def test_the_entry_is_the_one_that_the_tutorial_says_to_add(tmp_path: Path) -> None:
    written(tmp_path, [record(target())], to="tutorial", name="qwen3_vl_grounding_mllm")

    assert json.loads((tmp_path / "dataset_info.json").read_text("utf-8")) == {
        "qwen3_vl_grounding_mllm": {
            "file_name": "qwen3_vl_grounding_mllm.json",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "images"},
        }
    }
    assert problems(tmp_path) == []


def test_pictures_that_the_script_does_not_look_for_are_refused_and_say_so(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"tutorial's script takes no pictures called \.tif"):
        written(tmp_path, [record(target(), name="z.tif")], to="tutorial")
