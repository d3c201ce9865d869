"""Every option through a whole conversion: what was chosen is what stands in the output."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from tests.language.test_conversion_any_fault import WRITTEN, Numbers
from tests.language.yolo_sets import LINE, answers, converted, options, picture, samples, write_set
from vlyard.formats.drawing import colour_of
from vlyard.jobs.conversion import ConversionOptions

TOKENIZER = Path(__file__).parents[2] / "workers" / "qwen" / "demo_model" / "tokenizer.json"
ROWS = "0 0.2 0.8 0.1 0.1\n1 0.8 0.2 0.4 0.4\n0 0.2 0.2 0.2 0.2\n"  # below left, above right and largest, above left


def test_the_format_that_is_named_is_the_one_that_is_read(tmp_path: Path) -> None:
    boxes: dict[str, Numbers] = {
        "yolo": (0, 0, 20, 15), "coco": (4, 3, 20, 15), "voc": (8, 6, 20, 15), "labelme": (12, 9, 20, 15),
        "answers": (16, 12, 20, 15),
    }  # fmt: skip
    files: dict[str, str | bytes] = {"images/0.jpg": picture()}
    for (name, box), write in zip(boxes.items(), WRITTEN[:4], strict=False):
        assert write.__name__ == name
        files |= write([[box]])
    answer = json.dumps([{"bbox_2d": [400, 400, 500, 500], "label": "dog"}])
    turns = [{"role": "user", "content": "<image>\nFind."}, {"role": "assistant", "content": answer}]
    files["samples/data.json"] = json.dumps([{"messages": turns, "images": ["../images/0.jpg"]}])
    source = write_set(tmp_path / "set", files)
    for name, (x1, y1, x2, y2) in boxes.items():
        _, report = converted(source, tmp_path / name, options(source_format=name))
        (found,) = (each for objects in answers(tmp_path / name).values() for each in objects)
        assert found["bbox_2d"] == [25 * x1, y1 * 100 // 3, 25 * x2, y2 * 100 // 3]
        assert report["source"]["format"] == name


def _set(folder: Path) -> Path:
    files: dict[str, str | bytes] = {
        "data.yaml": "train: images\nnames: [cat, dog]\nkpt_shape: [1, 2]\nkpt_names: {0: [nose]}\n",
        "images/a.jpg": picture((100, 100)),
        "labels/a.txt": ROWS,
    }
    return write_set(folder / "set", files)


@pytest.mark.parametrize(
    ("chosen", "corners"),
    [
        ({"order": "source"}, [150, 600, 100]),
        ({"order": "position"}, [100, 600, 150]),
        ({"order": "size"}, [600, 100, 150]),
        ({"order": "class"}, [150, 100, 600]),
    ],
)
def test_objects_stand_in_the_order_that_was_asked_for(
    tmp_path: Path, chosen: dict[str, Any], corners: list[int]
) -> None:
    converted(_set(tmp_path), tmp_path / "out", options(**chosen))
    assert [found["bbox_2d"][0] for found in answers(tmp_path / "out")["images/images/a.jpg"]] == corners


def test_long_answers_are_split_or_refused_by_boxes_and_by_tokens(tmp_path: Path) -> None:
    source = write_set(_set(tmp_path), {"images/b.jpg": picture(), "labels/b.txt": LINE})
    chosen = ConversionOptions(max_boxes=2, language="zh")
    report, _ = converted(source, tmp_path / "split", chosen)
    told = [orjson.loads(sample["messages"][1]["content"]) for sample in samples(tmp_path / "split")]
    assert ([len(objects) for objects in told], report.samples, report.boxes) == ([2, 1, 1], 3, 4)
    first = samples(tmp_path / "split")[0]["messages"][0]["content"]
    assert any("\u3400" <= letter <= "\u9fff" for letter in first)
    by_boxes, by_tokens = (
        options(overflow="refuse", max_boxes=2),
        options(overflow="refuse", max_answer_tokens=60),
    )
    for refusing, code in ((by_boxes, "too_many_objects"), (by_tokens, "answer_too_long")):
        _, written = converted(source, tmp_path / code, refusing, tokenizer=TOKENIZER)
        (row,) = written["rows"]
        assert (row["file"], row["codes"], row["status"], row["annotations"]) == ("images/a.jpg", [code], "refused", 3)
        assert list(answers(tmp_path / code)) == ["images/images/b.jpg"]


def test_points_of_poses_and_attributes_reach_the_answers(tmp_path: Path) -> None:
    source = write_set(_set(tmp_path), {"labels/a.txt": "1 0.5 0.5 0.4 0.4 0.45 0.55\n0 0.2 0.2 0.2 0.2 0.75\n"})
    converted(source, tmp_path / "out", options(targets="points", attributes=("confidence",)))
    assert answers(tmp_path / "out")["images/images/a.jpg"] == [
        {"point_2d": [450, 550], "label": "dog", "role": "nose"},
        {"point_2d": [200, 200], "label": "cat", "confidence": 0.75},
    ]


def test_the_contact_sheet_has_the_boxes_where_the_objects_are(tmp_path: Path) -> None:
    source = write_set(_set(tmp_path), {"images/a.jpg": picture((8, 8)), "labels/a.txt": "1 0.75 0.75 0.5 0.5\n"})
    converted(source, tmp_path / "out")
    sheet = np.asarray(Image.open(tmp_path / "out" / "contact_sheet.png").convert("RGB"))
    rows, columns = np.nonzero((sheet == colour_of("dog")).all(axis=2))
    side = sheet.shape[1]
    assert abs(columns.min() - side / 2) < 0.04 * side
    assert columns.max() > 0.9 * side
    assert (rows.min() > 0.35 * side, rows.max() > 0.9 * side) == (True, True)
