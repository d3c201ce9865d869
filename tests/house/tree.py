"""The files that make up the project, as git knows them: tracked ones, and new ones that are not ignored."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("vlyard", "db", "control", "api", "workers", "migrations")


@cache
def files() -> tuple[Path, ...]:
    """Every file of the project, relative to its root, in order."""
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = sorted({Path(name) for name in listed.split("\0") if name})
    return tuple(path for path in found if (ROOT / path).is_file())


def python_files(*packages: str) -> Iterator[Path]:
    """The Python files of these packages; of the whole project where none is named."""
    return (path for path in files() if path.suffix == ".py" and (not packages or path.parts[0] in packages))


def text_files() -> Iterator[tuple[Path, str]]:
    """Every file that is text in UTF-8, with its text."""
    for path in files():
        content = (ROOT / path).read_bytes()
        if b"\0" in content:
            continue
        try:
            yield path, content.decode()
        except UnicodeDecodeError:
            continue


@cache
def syntax(path: Path) -> ast.Module:
    """The syntax tree of a Python file of the project."""
    return ast.parse((ROOT / path).read_text("utf-8"), str(path))


def nodes(*packages: str) -> Iterator[tuple[Path, ast.AST]]:
    """Every node of every Python file of these packages, with its file."""
    for path in python_files(*packages):
        for node in ast.walk(syntax(path)):
            yield path, node


def modules(*packages: str) -> Iterator[str]:
    """The names under which the files of these packages are imported; programs and migrations are none of them."""
    for path in python_files(*packages):
        if path.stem != "__main__" and path.parts[0] != "migrations":
            parts = path.with_suffix("").parts
            yield ".".join(parts[:-1] if path.stem == "__init__" else parts)


def read(name: str) -> str:
    """The text of a file of the project."""
    return (ROOT / name).read_text("utf-8")
