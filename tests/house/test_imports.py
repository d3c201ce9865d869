"""Imports go one way, and importing does nothing but define names."""

import ast
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import files as files_of
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.house.tree import PACKAGES, ROOT, files, modules, nodes, read

# One import that breaks each contract, and the file to put it into.
OFFENCES = {
    "layers": ("db/models.py", "import control.submit"),
    "model": ("workers/qwen/sampling.py", "import workers.context"),
    "torch": ("control/submit.py", "import torch"),
    "http": ("workers/context.py", "import fastapi"),
    "s3": ("control/uploads.py", "import boto3"),
    "celery": ("workers/runner.py", "import celery"),
    "sql": ("vlyard/files.py", "import psycopg"),
}

# Runs in a fresh interpreter: imports what it is told, and says after each module what that brought.
WATCH = """
import importlib, json, os.path, sys, threading

root, own = sys.argv[1] + os.sep, tuple(os.path.join(sys.argv[1], name) + os.sep for name in sys.argv[2].split(","))
standard, metadata = os.path.dirname(threading.__file__), os.path.join("importlib", "metadata")
acts = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.putenv", "os.fork", "os.exec",
        "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo"}
seen = []

def of_ours(frame):
    # The file of ours that acts, by itself or through the standard library: what a library does is its own matter,
    # and so is the import system. The version may be looked up: it is in the metadata and nowhere else.
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(own):
            return name.removeprefix(root)
        if name.startswith("<frozen ") and "importlib" not in name:
            frame = frame.f_back
            continue
        if not name.startswith(standard) or "site-packages" in name or metadata in name:
            return None
        frame = frame.f_back

def hook(event, arguments):
    if event in acts and (path := of_ours(sys._getframe(1))):
        seen.append(f"{path}: {event} {arguments[0]}")

sys.addaudithook(hook)
threads, brought = [], {}
for module in sys.argv[3].split(","):
    importlib.import_module(module)
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    threads += [f"{module}: {name}" for name in others]
    brought[module] = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps({"seen": seen, "threads": threads, "brought": brought}))
"""


@dataclass(frozen=True)
class Imported:
    """What importing every module of the project did, those first that have to do without torch."""

    seen: list[str]
    threads: list[str]
    brought: dict[str, list[str]]


@pytest.fixture(scope="module")
def imported() -> Imported:
    light = [*modules("vlyard", "db", "control", "api"), "workers.commands", "workers.app"]
    names = [*light, *(name for name in modules("workers") if name not in light)]
    command = (sys.executable, "-c", WATCH, str(ROOT), ",".join(PACKAGES), ",".join(names))
    done = subprocess.run(command, cwd=ROOT, env={"PATH": ""}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Imported(**json.loads(done.stdout.splitlines()[-1]))


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    command = (str(program), "--no-cache", "--config", str(folder / "pyproject.toml"))
    environment = {"PATH": "", "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


def test_imports_go_in_one_direction() -> None:
    done = lint(ROOT)

    assert done.returncode == 0, done.stdout


def test_an_import_in_the_wrong_direction_is_found(tmp_path: Path) -> None:
    # given a copy of the project with an offence against each contract
    for path in files():
        if path.parts[0] in PACKAGES and path.suffix == ".py":
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, line in OFFENCES.values():
        with (tmp_path / name).open("a") as file:
            file.write(f"\n{line}\n")
    # when
    told = lint(tmp_path).stdout
    # then every contract is broken, and none lacks its offence here
    rows = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    contracts = {row["id"]: row["name"] for row in rows}
    assert contracts.keys() == OFFENCES.keys()
    assert [name for name in contracts.values() if f"{name} BROKEN" not in told] == []


def test_the_client_needs_only_what_its_distribution_brings() -> None:
    # given the names that `pip install vlyard` brings
    project = tomllib.loads(read("pyproject.toml"))["project"]
    brought = set[str]().union(*(names_in(Requirement(line).name) for line in project["dependencies"]))
    # when
    foreign = imports_of("vlyard") - sys.stdlib_module_names - {"vlyard"}
    # then
    assert foreign - brought == OPTIONAL


# Imported where it is used, with a message that says how to get it: an answer's tokens are counted by few.
OPTIONAL = {"tokenizers"}


def names_in(distribution: str) -> set[str]:
    """The top-level names that an installed distribution brings."""
    paths = files_of(distribution) or []
    return {path.parts[0].partition(".")[0] for path in paths if path.suffix in {".py", ".so"}}


def imports_of(package: str) -> set[str]:
    """The top-level names that a package imports anywhere."""
    found = set()
    for _, node in nodes(package):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_only_the_process_of_a_gpu_worker_imports_torch(imported: Imported) -> None:
    light = {name: brought for name, brought in imported.brought.items() if not name.startswith("workers.")}
    light["workers.app"] = imported.brought["workers.app"]

    assert [name for name, brought in light.items() if brought] == []
    assert imported.brought["workers.inference"] == ["torch", "transformers"]


def test_importing_a_module_starts_no_thread(imported: Imported) -> None:
    assert imported.threads == []


def test_importing_a_module_opens_no_file_and_no_connection(imported: Imported) -> None:
    assert imported.seen == []


@pytest.mark.parametrize("line", ["open('pyproject.toml')", "import pathlib; list(pathlib.Path().iterdir())"])
def test_a_module_that_touches_something_when_imported_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "vlyard").mkdir()
    (tmp_path / "vlyard" / "__init__.py").touch()
    (tmp_path / "vlyard" / "loud.py").write_text(line)
    (tmp_path / "pyproject.toml").touch()
    command = (sys.executable, "-c", WATCH, str(tmp_path), "vlyard", "vlyard.loud")
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": ""}, check=True, capture_output=True, text=True)

    assert len(json.loads(done.stdout)["seen"]) == 1
