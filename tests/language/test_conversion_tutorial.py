"""A whole conversion with `--to tutorial` is the tutorial's own file for the same folder, paths aside."""

from pathlib import Path

import pytest

from tests.language.test_writing_tutorial import script
from tests.language.yolo_sets import converted, picture, write_set
from vlyard.demo.shapes import CLASSES, draw_dataset
from vlyard.jobs.conversion import ConversionOptions

TUTORIAL = ConversionOptions(to="tutorial", name="qwen3_vl_grounding_mllm")


def _labels(folder: Path) -> dict[str, str | None]:
    """Picture -> the text of its label file, as the script looks for it."""
    files = {path.name: folder / "labels" / f"{path.stem}.txt" for path in (folder / "images").iterdir()}
    return {name: path.read_text() if path.exists() else None for name, path in files.items()}


def test_a_drawn_set_gives_the_tutorials_file(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "set", 20, seed=3, side=64)
    converted(tmp_path / "set", tmp_path / "out", TUTORIAL, pictures="keep", processes=2)
    expected = script(tmp_path / "set", _labels(tmp_path / "set"), dict(enumerate(CLASSES)))
    assert (tmp_path / "out" / "qwen3_vl_grounding_mllm.json").read_text("utf-8") == expected


def test_real_pictures_with_real_labels_give_the_tutorials_file(shared_data: Path, tmp_path: Path) -> None:
    source = (shared_data / "roboflow-empire-state" / "train").resolve()
    converted(source, tmp_path / "out", TUTORIAL, pictures="keep")
    expected = script(source, _labels(source), {})
    assert (tmp_path / "out" / "qwen3_vl_grounding_mllm.json").read_text("utf-8") == expected


@pytest.mark.parametrize("only", [(0,), (1,), (0, 1)])
def test_the_scripts_choice_of_class_ids_is_the_option_classes(tmp_path: Path, only: tuple[int, ...]) -> None:
    files: dict[str, str | bytes] = {
        "data.yaml": "train: images\nnames: [house, roof]\n",
        "images/a.jpg": picture(),
        "images/b.jpg": picture(),
        "images/none.jpg": picture(),
        "labels/a.txt": "0 0.5 0.5 0.2 0.2\n1 0.4 0.4 0.1 0.1\n",
        "labels/b.txt": "1 0.123 0.456 0.2 0.2\n",
    }
    source = write_set(tmp_path / "set", files)
    chosen = TUTORIAL.model_copy(update={"classes": only})
    converted(source, tmp_path / "out", chosen, pictures="keep")
    expected = script(source, _labels(source), {0: "house", 1: "roof"}, set(only))
    assert (tmp_path / "out" / "qwen3_vl_grounding_mllm.json").read_text("utf-8") == expected


def test_what_is_faulty_is_written_as_the_script_does_or_refused_with_its_reason(tmp_path: Path) -> None:
    rows = {
        "twice": "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n\n0 0.5 0.5\n",
        "edge": "0 0.5 0.5 1.005 0.2\n0 0.3 0.3 0.0001 0.2\n",
        "bad": "0 0.5 0.5 0.4 0.4\n1 0.5 0.5 0.2 0.2\n0 1.9 0.5 0.2 0.2\n0 0.1 0.1 0.9 0.1 0.9 0.9\n",
    }
    files: dict[str, str | bytes] = {"data.yaml": "train: images\nnames: [house]\n"}
    for name, text in rows.items():
        files |= {f"images/{name}.jpg": picture(), f"labels/{name}.txt": text}
    source = write_set(tmp_path / "set", files)
    _, report = converted(source, tmp_path / "out", TUTORIAL, pictures="keep")
    # What teaches something false is not written: an id without a class, a box beside the picture, an outline's
    # first four numbers.
    labels = _labels(source) | {"bad.jpg": "0 0.5 0.5 0.4 0.4\n0 0.5 0.5 0.8 0.8\n"}
    expected = script(source, labels, {0: "house"})
    assert (tmp_path / "out" / "qwen3_vl_grounding_mllm.json").read_text("utf-8") == expected
    assert report["totals"]["faults"] == {
        "class_out_of_range": 1, "duplicate_kept": 1, "far_outside": 1, "mixed_rows": 1, "no_area_left": 1,
        "outside": 1, "wrong_field_count": 1,
    }  # fmt: skip
