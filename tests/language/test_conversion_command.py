"""`vlyard convert`: no server, a table or JSON, and one clear message where the user can help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.language.yolo_sets import LINE, one_picture, samples, write_set
from vlyard.formats.archive import pack


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = (sys.executable, "-c", "from vlyard.cli.app import main; main()", "convert")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLYARD_")}
    return subprocess.run(
        [*program, *map(str, words)], env=environment | {"COLUMNS": "200"}, capture_output=True, text=True, timeout=60
    )


def test_a_folder_is_converted_and_the_counts_and_paths_are_shown(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", one_picture(LINE + "0 0.05 0.5 0.2 0.4\nnonsense\n"))
    ran = run(source, tmp_path / "out", "--name", "cats", "--prompt", "Find cats.")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert samples(tmp_path / "out", "cats")[0]["messages"][0]["content"] == "<image>\nFind cats."
    (row,) = [line for line in ran.stdout.splitlines() if "annotations" in line]
    assert [word for word in row.replace("│", " ").split() if word.isdecimal()] == ["3", "1", "1", "1", "0"]
    for name in ("cats.json", "report.json", "contact_sheet.png"):
        assert str(tmp_path / "out" / name) in ran.stdout
    assert "data.yaml names classes and splits" in ran.stdout


def test_an_archive_is_converted_and_the_summary_is_json_alone(tmp_path: Path) -> None:
    pack(write_set(tmp_path / "set", one_picture(LINE)), tmp_path / "set.zip")
    ran = run(tmp_path / "set.zip", tmp_path / "out", "--json")
    summary = json.loads(ran.stdout)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (summary["layout"], summary["samples"], summary["boxes"]) == ("ultralytics", 1, 1)
    assert summary["output"] == str(tmp_path / "out")


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ("7 0.5 0.5 0.1 0.1", (), "labels/a.txt:1: no class has the id 7"),
        (LINE + "nonsense", ("--policy", "strict"), "labels/a.txt:2: it has 1 fields"),
        (LINE, ("--prompt", "<image> Find cats."), "<image>"),
        (LINE, ("--name", "../cats"), "'../cats'"),
        (LINE, ("--policy", "guess"), "guess"),
    ],
)
def test_a_fault_of_the_user_is_one_message_and_status_2(
    tmp_path: Path, labels: str, arguments: tuple[str, ...], message: str
) -> None:
    ran = run(write_set(tmp_path / "set", one_picture(labels)), tmp_path / "out", *arguments)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not ran.stdout
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    ran = run(tmp_path / "nowhere", tmp_path / "out")
    assert ran.returncode == 2
    assert f"{tmp_path / 'nowhere'}: there is no such folder or archive" in ran.stderr


def test_pictures_without_objects_can_be_left_out(tmp_path: Path) -> None:
    files = {**one_picture(LINE), "images/empty.jpg": one_picture("")["images/a.jpg"]}
    source = write_set(tmp_path / "set", files)
    assert run(source, tmp_path / "out", "--negatives", "0").returncode == 0
    assert len(samples(tmp_path / "out")) == 1
