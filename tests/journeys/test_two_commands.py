"""`vlyard demo` and `vlyard up`, as somebody runs them who has just cloned the repository."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from tests.system import eventually
from vlyard import Client, Job, NoopSpec, State

DEMONSTRATED = ("conversion", "training_check", "training", "evaluation", "inference", "export")
VLYARD = str(Path(sys.executable).with_name("vlyard"))


@pytest.fixture
def newcomer(tmp_path: Path, own_environment: dict[str, str]) -> dict[str, str]:
    """The environment of somebody with an empty home."""
    (tmp_path / "home").mkdir()
    return {**own_environment, "HOME": str(tmp_path / "home"), "COLUMNS": "200"}


def _processes_in(folder: Path) -> list[str]:
    """The processes that mention a folder, in their arguments, their environment or as where they work."""
    found = []
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
            words = [*arguments, process.cwd(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(" ".join(arguments))
    return found


@contextmanager
def _up(folder: Path, environment: dict[str, str]) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    """A running `vlyard up` in a folder, and the settings that it leaves for other shells."""
    process = subprocess.Popen([VLYARD, "up"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    kept = folder / ".vlyard" / "up" / "environment"
    try:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C stops everything" not in said:
            line = process.stdout.readline()
            assert line, f"it ended: {said}"
            said += line
        yield process, dict(re.findall(r"export (\w+)='?([^'\n]*)'?", kept.read_text()))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.mark.timeout(600)  # every kind of job once, each in a process of its own
def test_the_demo_converts_trains_measures_asks_prints_where_everything_is_and_leaves_no_process(
    newcomer: dict[str, str], tmp_path: Path
) -> None:
    # given an empty folder; when the demo runs there
    ran = subprocess.run(
        [VLYARD, "demo", "--steps", "4", "--json"],
        cwd=tmp_path,
        env=newcomer,
        capture_output=True,
        text=True,
        timeout=450,
    )
    # then it ended well, and said where to look, beside what it says for programs
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for word in ("API key", "Flower", *DEMONSTRATED, "succeeded", "2128 samples with 2128 boxes", "first/shapes:1"):
        assert word in ran.stderr
    jobs = [Job.model_validate_json(line) for line in ran.stdout.splitlines()]
    assert [(job.kind, job.state) for job in jobs] == [(kind, State.SUCCEEDED) for kind in DEMONSTRATED]
    # and the annotated picture is where it says
    (path,) = re.findall(r"demo-output/inference/annotated\.png", ran.stderr)
    with Image.open(tmp_path / path) as picture:
        assert picture.format == "PNG"
    # and the lines that it printed open the folder that is left
    [lines] = re.findall(r"^(import torch.*?^print\(.*?\)) *$", ran.stderr, re.DOTALL | re.MULTILINE)
    code = "\n".join(line.rstrip() for line in lines.splitlines())
    again = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=newcomer, capture_output=True, text=True, timeout=100
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() in ran.stderr
    assert len(again.stdout) > 10  # it says something, as senseless as it may be after four steps
    assert "opening the export: the same answer" in ran.stderr
    # and nothing else is left
    assert _processes_in(tmp_path) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["demo-output", "home"]


def test_up_keeps_its_data_refuses_a_second_one_beside_it_and_leaves_no_process(
    newcomer: dict[str, str], tmp_path: Path
) -> None:
    # given a running stack and a job that has ended
    with _up(tmp_path, newcomer) as (first, settings):
        with Client(settings["VLYARD_URL"], settings["VLYARD_API_KEY"]) as client:
            client.run(NoopSpec(echo="kept"), timeout=60)
        # when a second one is started beside it, then that one says who is there, and ends
        beside = subprocess.run([VLYARD, "up"], cwd=tmp_path, env=newcomer, capture_output=True, text=True, timeout=60)
        assert beside.returncode == 2
        assert f"in use by the stack of process {first.pid} at {settings['VLYARD_URL']}" in beside.stderr
        assert "Traceback" not in beside.stderr
    # when it is stopped, then nothing is left
    assert first.returncode == 0
    assert _processes_in(tmp_path) == []
    # and when it is started again, then the first one's data, key and address are there
    with _up(tmp_path, newcomer) as (_, again):
        assert again == settings
        with Client(again["VLYARD_URL"], again["VLYARD_API_KEY"]) as client:
            (job,) = client.jobs()
            assert (job.result or {})["echo"] == "kept"


def test_a_stack_that_is_killed_leaves_no_process(newcomer: dict[str, str], tmp_path: Path) -> None:
    with _up(tmp_path, newcomer) as (process, settings):
        assert httpx.get(f"{settings['VLYARD_URL']}/healthz", trust_env=False).status_code == httpx.codes.OK
        process.kill()
        process.wait()
        eventually(lambda: not _processes_in(tmp_path), seconds=30, what="the end of every process")
