"""`vlyard dataset show`: what a conversion made, in the terminal."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from vlyard.cli.app import build
from vlyard.cli.dataset import in_half_blocks
from vlyard.errors import InvalidInput
from vlyard.formats.archive import pack
from vlyard.formats.box import Box
from vlyard.formats.convert import convert
from vlyard.formats.converted import open_converted
from vlyard.formats.drawing import colour_of, tiny
from vlyard.jobs.conversion import ConversionOptions

BOXES = [[250, 250, 750, 750], [0, 0, 500, 500]]
FORMS = ["sharegpt", "sharegpt-from-value", "qwen", "swift", "trl", "tutorial"]


def made(folder: Path, label: str = "cat", **options: Any) -> Path:
    """A converted set of two pictures to train on and one to validate with, and two faults."""
    source, output = folder / "set", folder / "out"
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        picture, labels = source / "images" / split / f"{name}.png", source / "labels" / split / f"{name}.txt"
        for path in (picture, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "red").save(picture)
        labels.write_text("0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.5 0.5\n" + ("nonsense\n" if split == "train" else ""))
    names = json.dumps([label, "dog"])
    (source / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n", "utf-8")
    convert(source, output, ConversionOptions(**options), lambda *_: None)
    return output


def shown(*words: str | Path) -> Result:
    return CliRunner().invoke(build(["dataset"]), ["dataset", "show", *map(str, words)], env={"COLUMNS": "160"})


def as_json(*words: str | Path) -> Any:
    return orjson.loads(shown(*words, "--json").stdout)


@pytest.mark.parametrize("packed", [False, True])
def test_the_overview_tells_the_source_the_counts_the_faults_and_the_statistics(tmp_path: Path, packed: bool) -> None:
    output = made(tmp_path)
    if packed:
        pack(output, tmp_path / "out.zip")

    said = shown(tmp_path / "out.zip" if packed else output).stdout

    assert "yolo, ultralytics" in said
    assert "train: 2 samples, 4 boxes in grounding" in said
    assert "val: 1 samples, 2 boxes in grounding_val" in said
    assert any(line.split()[1::2][:4] == ["annotations", "8", "6", "0"] for line in said.splitlines())
    assert "wrong_field_count" in said
    assert "labels/train/a.txt:3" in said
    assert "Objects per class" in said
    assert "█" in said
    assert "grounding_val, sample 1: images/images/val/c.png" in said


def test_the_overview_as_json_is_the_report_with_statistics_and_samples(tmp_path: Path) -> None:
    overview = as_json(made(tmp_path))

    assert overview["report"]["totals"]["samples"] == 3
    assert "rows" not in overview["report"]
    assert [row["line"] for row in overview["faults"]["wrong_field_count"]] == [3, 3]
    assert overview["statistics"]["boxes_per_class"] == {"cat": 3, "dog": 3}
    assert [(sample["data_set"], sample["number"]) for sample in overview["samples"]] == [
        ("grounding", 1),
        ("grounding_val", 1),
    ]


@pytest.mark.parametrize("to", FORMS)
def test_a_sample_of_every_form_is_a_question_an_answer_and_its_boxes(tmp_path: Path, to: str) -> None:
    output = made(tmp_path, to=to, prompts=("Where?",))

    sample = as_json(output, "--sample", "2")

    assert (sample["question"], sample["number"]) == ("Where?", 2)
    assert sample["picture"].endswith("b.png")
    objects = json.loads(sample["answer"])
    objects = objects["objects"] if to == "tutorial" else objects
    assert [(each["bbox_2d"], each["label"]) for each in objects] == list(zip(BOXES, ["cat", "dog"], strict=True))
    (found,) = (each for each in open_converted(output).samples() if each.picture.endswith("c.png"))
    assert [(list(box.to_thousand()), label) for box, label in found.boxes()] == list(
        zip(BOXES, ["cat", "dog"], strict=True)
    )
    assert open_converted(output).picture(found).getpixel((3, 3)) == (255, 0, 0)


def test_a_picture_is_found_by_its_name_or_the_end_of_its_path(tmp_path: Path) -> None:
    output = made(tmp_path)

    assert as_json(output, "--picture", "c.png")["data_set"] == "grounding_val"
    assert as_json(output, "--picture", "train/b.png")["number"] == 2


def test_points_are_shown_as_small_boxes(tmp_path: Path) -> None:
    output = made(tmp_path, targets="points")

    first = next(open_converted(output).samples())

    assert [(box.to_thousand(), label) for box, label in first.boxes()] == [
        ((496, 496, 504, 504), "cat"),
        ((246, 246, 254, 254), "dog"),
    ]


def test_a_sample_is_shown_in_the_colours_of_its_picture(tmp_path: Path) -> None:
    colours = {"COLUMNS": "80", "FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm"}

    said = CliRunner().invoke(
        build(["dataset"]), ["dataset", "show", str(made(tmp_path)), "--sample", "1"], env=colours, color=True
    )

    red, green, blue = colour_of("cat")
    assert "38;2;255;0;0;48;2;255;0;0m▀" in said.stdout
    assert f"38;2;{red};{green};{blue}" in said.stdout


def test_each_cell_of_the_terminal_holds_two_pixels() -> None:
    picture = tiny(Image.new("RGB", (300, 150), "red"), [(Box.relative((0, 0, 0.5, 1)), "cat")], 20, 60)
    assert picture.size == (20, 10)
    file = io.StringIO()
    Console(file=file, color_system="truecolor", force_terminal=True, width=20).print(in_half_blocks(picture))
    lines = file.getvalue().splitlines()
    assert [line.count("▀") for line in lines] == [20] * 5
    red, green, blue = colour_of("cat")
    assert lines[2].startswith(f"\x1b[38;2;{red};{green};{blue};48;2;{red};{green};{blue}m▀")
    assert lines[2].endswith("\x1b[38;2;255;0;0;48;2;255;0;0m▀\x1b[0m")


def test_rows_are_listed_by_their_code(tmp_path: Path) -> None:
    output = made(tmp_path)

    lines = shown(output, "--faults", "wrong_field_count", "--json").stdout.splitlines()

    assert [orjson.loads(line)["file"] for line in lines] == ["labels/train/a.txt", "labels/train/b.txt"]
    assert shown(output, "--faults", "all").stdout.count("refused:") == 2
    assert shown(output, "--faults", "duplicate").stdout == ""


def test_words_of_a_data_set_do_not_steer_the_terminal(tmp_path: Path) -> None:
    output = made(tmp_path, label="[bold]\x1b]0;title\x07\u202e猫")

    said = shown(output).stdout + shown(output, "--sample", "1").stdout

    assert "[bold]" in said
    assert "猫" in said
    assert not {"\x1b", "\x07", "\u202e"} & set(said)


def test_a_label_format_has_a_report_and_no_samples(tmp_path: Path) -> None:
    output = made(tmp_path, to="coco")

    assert "annotations" in shown(output).stdout
    assert "a label format has none" in str(shown(output, "--sample", "1").exception)


def test_a_picture_that_is_gone_is_said_and_the_words_are_shown(tmp_path: Path) -> None:
    output = made(tmp_path)
    (output / "images" / "images" / "train" / "a.png").unlink()
    colours = {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm", "COLUMNS": "200"}

    ran = CliRunner().invoke(build(["dataset"]), ["dataset", "show", str(output), "--sample", "1"], env=colours)

    assert ran.exit_code == 0
    assert "No such file" in ran.stdout
    assert '"bbox_2d"' in ran.stdout


def rewritten(output: Path, name: str, content: bytes) -> Path:
    (output / name).write_bytes(content)
    return output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sample", "9"], "it has 3 samples"),
        (["--picture", "z.png"], "the picture z.png"),
        (["--faults", "nonsense"], "wrong_field_count"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(tmp_path: Path, words: Sequence[str], message: str) -> None:
    error = shown(made(tmp_path), *words).exception

    assert isinstance(error, InvalidInput)
    assert message in str(error)


def test_what_no_conversion_made_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a.txt", "a")
    for path in (tmp_path / "empty", tmp_path / "a.zip", tmp_path / "missing", Path(__file__)):
        error = shown(path).exception
        assert isinstance(error, InvalidInput)
        assert "there is no report.json in it" in str(error)


@pytest.mark.parametrize("cut", [0, 30, 400, -5])
def test_a_report_that_is_not_whole_is_told_so(tmp_path: Path, cut: int) -> None:
    output = made(tmp_path)
    whole = (output / "report.json").read_bytes()

    error = shown(rewritten(output, "report.json", whole[:cut]), "--faults", "all").exception

    assert isinstance(error, InvalidInput)
    assert "convert the data set again" in str(error)


def test_samples_of_an_unknown_form_are_told_with_their_file(tmp_path: Path) -> None:
    output = rewritten(made(tmp_path), "grounding.json", b'[{"images": ["a.png"]}]')

    error = shown(output, "--sample", "1").exception

    assert isinstance(error, InvalidInput)
    assert "grounding.json: sample 1" in str(error)
