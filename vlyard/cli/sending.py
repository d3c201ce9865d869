"""Files and folders of this machine that users name where an artefact is meant: checked, then uploaded.

Knows no kind of job: where an artefact is meant, and whether a folder will do, the specification says.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from vlyard.client import Client
from vlyard.client.transfer import Told
from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.spec import Spec

FILE = "file:"  # begins a text that names a file or folder of this machine

V = TypeVar("V", bound=BaseModel)


class LocalFiles:
    """The `file:PATH` in what a user wrote, where an artefact is meant.

    `told` says where one stands, by its JSON pointer and its text, and what to do where there is no such file. Paths
    are relative to the folder.
    """

    def __init__(self, written: Any, told: Callable[[str, str], tuple[str, str]], folder: Path = Path()) -> None:
        self._ids: dict[str, UUID] = {}  # that stand for the texts, until it is known which of these are files
        self._paths: dict[UUID, Path] = {}
        self._written = _each_text(written, self._stand_in)
        self._told, self._folder = told, folder

    def checked(self, check: Callable[[Any], V], specs: Callable[[V], Iterable[Spec]]) -> V:
        """What `check` makes of what was written, with an id in the place of each file that its specifications name.

        Raises `InvalidInput` where a file is missing, or is a folder and will not do; and what `check` raises.
        """
        checked = check(self._written)
        for spec in specs(checked) if self._ids else ():
            named = {id: pointer for id in self._ids.values() if (pointer := spec.place_of(id))}
            self._find(spec, named)
        meant = {str(id): text for text, id in self._ids.items() if id not in self._paths}
        one = {path: id for id, path in self._paths.items()}  # a file may be written in several ways
        meant |= {str(id): str(one[path]) for id, path in self._paths.items()}
        return check(_each_text(self._written, lambda text: meant.get(text, text)))

    def sent(self, client: Client, wanted: V) -> V:
        """What was checked, with the artefacts that the files have become."""
        if not self._paths:
            return wanted
        artefacts = uploaded(client, sorted(set(self._paths.values())))
        ids = {str(id): str(artefacts[path]) for id, path in self._paths.items()}
        plain = wanted.model_dump(mode="json")
        return type(wanted).model_validate(_each_text(plain, lambda text: ids.get(text, text)))

    def _stand_in(self, text: str) -> str:
        return str(self._ids.setdefault(text, uuid4())) if text.startswith(FILE) else text

    def _find(self, spec: Spec, named: Mapping[UUID, str]) -> None:
        texts = {id: text for text, id in self._ids.items()}
        places = {id: self._told(pointer, texts[id]) for id, pointer in named.items()}
        paths = {id: located(texts[id], where, self._folder, fix) for id, (where, fix) in places.items()}
        refuse_folders(spec, {id: (path, places[id][0]) for id, path in paths.items()})
        self._paths |= paths


def _each_text(data: Any, change: Callable[[str], str]) -> Any:
    """The data with every text in it changed."""
    if isinstance(data, Mapping):
        return {key: _each_text(value, change) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_each_text(value, change) for value in data]
    return change(data) if isinstance(data, str) else data


def located(text: str, where: str, folder: Path = Path(), fix: str = "") -> Path:
    """The file or folder that a text names, as PATH or file:PATH, with one path for each.

    Raises `InvalidInput` where there is none.
    """
    text = text.removeprefix(FILE)
    path = folder / Path(text).expanduser()
    if not text or not path.exists():  # an empty text would be the folder itself
        named = f"there is no file or folder {text}" if text else "it names no file or folder"
        raise InvalidInput("A file is missing", [Complaint(where, named, fix)])
    return path.resolve()


def refuse_folders(spec: Spec, named: Mapping[UUID, tuple[Path, str]]) -> None:
    """Raise `InvalidInput` where a folder is named in a place that takes a file.

    What is named, and where, stands behind the id that it has in the specification for now.
    """
    shares = spec.split_up(uuid4).values()  # what a job hands on to those that share its work
    taken = {id for each in (spec, *shares) for id in each.trees()}
    complaints = [
        Complaint(where, f"{path.name} is a folder, and this takes a file", "name one of its files")
        for id, (path, where) in named.items()
        if path.is_dir() and id not in taken
    ]
    if complaints:
        raise InvalidInput("A folder will not do", complaints)


def uploaded(client: Client, paths: Iterable[Path]) -> Mapping[Path, UUID]:
    """The artefacts that the files and folders became, each uploaded once, with a bar on stderr."""
    found = {}
    for path in paths:
        with transfer(path.name) as told:
            send = client.upload_tree if path.is_dir() else client.upload
            found[path] = send(path, on_progress=told).id
    return found


@contextmanager
def transfer(name: str, *, quiet: bool = False) -> Iterator[Told]:
    """A bar on stderr that shows how many bytes are there, where somebody looks at it, and goes away at the end."""
    console = Console(stderr=True)
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        bar = bars.add_task(name, total=None)
        yield lambda there, total: bars.update(bar, completed=there, total=total)
