"""The program itself: its commands, whoever brings them, its help, its completion, and how it is stopped."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperOption
from typer.testing import CliRunner

import vlyard
from tests.language.test_cli import run
from vlyard.cli.app import STATUS, OnceEach, build


def test_control_c_is_as_quiet_while_the_program_is_still_being_imported(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\n")

    ran = run(None, "jobs", PYTHONPATH=str(tmp_path))

    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")
    scripts = tomllib.loads((Path(vlyard.__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"vlyard": "vlyard.cli.entry:main"}


def test_the_installed_program_says_its_version() -> None:
    program = Path(sys.executable).with_name("vlyard")

    ran = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout) == (0, f"{vlyard.__version__}\n")


def plugin(folder: Path, module: str) -> str:
    """A distribution that brings a command of its own; returns the search path on which it is installed."""
    (folder / "plugin_commands.py").write_text(module)
    installed = folder / "plugin-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[vlyard.commands]\ngreet = plugin_commands:greet\n")
    return str(folder)


COMMAND = """
def greet():
    print("hello from a plugin")
"""


def test_a_command_of_another_distribution_is_found_by_its_entry_point(tmp_path: Path) -> None:
    ran = run(None, "greet", PYTHONPATH=plugin(tmp_path, COMMAND))

    assert (ran.returncode, ran.stdout) == (0, "hello from a plugin\n")


def test_commands_whose_extra_is_not_installed_are_left_out_and_the_help_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "flower.py").write_text("raise ModuleNotFoundError(\"No module named 'flower'\", name='flower')")
    path = plugin(tmp_path, "import flower\n" + COMMAND)

    shown, asked = run(None, "--help", PYTHONPATH=path), run(None, "greet", PYTHONPATH=path)

    assert shown.returncode == 0
    assert "pip install '.[server]' in a checkout of VLyard adds: greet." in shown.stdout
    assert asked.returncode == 2
    assert "No such command 'greet'" in asked.stderr


def test_a_command_that_is_broken_otherwise_is_not_hidden(tmp_path: Path) -> None:
    ran = run(None, "--help", PYTHONPATH=plugin(tmp_path, "import a_module_that_nobody_promised\n" + COMMAND))

    assert ran.returncode == 1
    assert "a_module_that_nobody_promised" in ran.stderr


def test_a_command_of_the_client_loads_nothing_of_the_server(tmp_path: Path) -> None:
    path = plugin(tmp_path, "raise SystemExit('loaded the server')")

    own, other = run(None, "jobs", "--help", PYTHONPATH=path), run(None, "--help", PYTHONPATH=path)

    assert (own.returncode, own.stderr) == (0, "")
    assert other.stderr == "loaded the server\n"


def test_every_command_explains_itself() -> None:
    shown = run(None, "--help", COLUMNS="200").stdout.splitlines()

    for command in ("submit", "jobs", "job", "wait", "cancel", "upload", "download", "convert"):
        (line,) = (line for line in shown if line.strip("│ ").split()[:1] == [command])
        assert line.strip("│ ").endswith(".")


def leaves(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
    for name, part in (inner or {}).items():
        yield from leaves(part, *words, name)


# They run until they are stopped, and what they print is for whoever watches.
RUNNING = {("api",), ("dispatcher",), ("flower",), ("up",), ("worker",)}


def test_every_command_that_ends_speaks_json() -> None:
    silent = {
        words
        for words, command in leaves(typer.main.get_command(build([])))
        if "--json" not in [name for parameter in command.params for name in parameter.opts]
    }

    assert silent == RUNNING


def test_every_command_refuses_an_option_of_one_value_that_is_given_twice() -> None:
    app = build([])
    refused = 0

    for words, command in leaves(typer.main.get_command(app)):
        assert isinstance(command, OnceEach), words
        options = [each for each in command.params if isinstance(each, TyperOption)]
        for name in [each.opts[0] for each in options if not (each.multiple or each.is_flag)][:1]:
            ran = CliRunner().invoke(app, [*words, name, "1", f"{name}=1", name, "2"], env={"COLUMNS": "200"})
            assert (ran.exit_code, f"{name} was given 3 times; it takes one" in ran.stderr) == (2, True), words
            refused += 1

    assert refused > 20


def test_the_help_lists_the_exit_statuses() -> None:
    shown = run(None, "jobs", "--help", COLUMNS="300").stdout + run(None, "--help", COLUMNS="300").stdout

    assert all(f"{status} " in shown for status in [0, 1, 2, *STATUS.values(), 130])
    assert "3 the job failed; 4 the job was cancelled; 5 --timeout passed; 130 Ctrl-C." in shown


@pytest.mark.parametrize(
    ("shell", "typed", "offered"),
    [
        ("bash", "vlyard inf", "inference"),
        ("bash", "vlyard jobs --state can", "cancelled"),
        ("zsh", "vlyard jobs --kind pre", "prediction"),
        ("fish", "vlyard jobs --state can", "cancelled"),
    ],
)
def test_a_shell_completes_commands_kinds_and_states(shell: str, typed: str, offered: str) -> None:
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}  # as bash says it, and the others
    others = {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}

    ran = run(None, _VLYARD_COMPLETE=f"complete_{shell}", **asked, **others)

    assert ran.returncode == 0
    assert re.findall(r"\w+", ran.stdout.replace("_arguments", "")) == [offered]
