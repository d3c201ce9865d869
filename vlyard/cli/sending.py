"""Files and folders of this machine that a command line names where an artefact is meant: checked, then uploaded.

Knows no kind of job: whether a folder will do, the specification says.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from vlyard.client import Client
from vlyard.client.transfer import Told
from vlyard.errors import Complaint, InvalidInput
from vlyard.jobs.spec import Spec


def located(text: str, where: str, folder: Path = Path(), fix: str = "") -> Path:
    """The file or folder that a text names, with one path for each. Raises `InvalidInput` where there is none."""
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
def transfer(name: str = "") -> Iterator[Told]:
    """A bar on stderr that shows how many bytes are there, where somebody looks at it, and goes away at the end."""
    console = Console(stderr=True)
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(name, total=None)
        yield lambda there, total: bars.update(bar, completed=there, total=total)
