"""A directory as one artefact: its manifest, and where its files lie in the store. Knows no API and no S3.

The manifest lists every file with its path, length and SHA-256, in one order and one spelling: equal directories have
equal manifests, and so the same SHA-256. A file lies under its digest beside the manifest, so its path is never a key.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vlyard.errors import Complaint, InvalidInput
from vlyard.files import sha256_of

MOST_FILES = 20_000
LARGEST_FILE = 5 * 2**40  # bytes: S3's own limit for one object
MEDIA_TYPE = "inode/directory"
MANIFEST, MANIFEST_TYPE = "manifest.json", "application/json"
_LONGEST_PATH, _LONGEST_NAME = 1024, 255  # bytes


def _usable_path(path: str) -> str:
    parts = path.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise ValueError(f"the path {path!r} is no UTF-8: rename the file") from error
    shown = repr(path if len(path) <= 200 else f"{path[:199]}…")
    if path.startswith("/") or re.match("[A-Za-z]:", path):
        raise ValueError(f"the path {shown} is absolute: send paths relative to the folder")
    if ".." in parts:
        raise ValueError(f"the path {shown} leads upwards: send paths inside the folder")
    if not all(parts) or "." in parts:
        raise ValueError(f"the path {shown} has an empty part: write folders and file with single slashes between")
    if "\\" in path or re.search(r"[\x00-\x1f]", path):
        raise ValueError(f"the path {shown} has a backslash or a control character: rename the file")
    if sum(sizes) + len(parts) - 1 > _LONGEST_PATH or max(sizes) > _LONGEST_NAME:
        raise ValueError(f"the path {shown} is too long: {_LONGEST_PATH} bytes, {_LONGEST_NAME} in one name, at most")
    return path


class TreeFile(BaseModel):
    """One file of a tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, AfterValidator(_usable_path)] = Field(
        description="Relative to the tree, with forward slashes; no `..`, no backslash."
    )
    bytes: int = Field(ge=0, le=LARGEST_FILE, description="Its exact length.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="The SHA-256 of its content, in hexadecimal.")


_FILES = TypeAdapter(tuple[TreeFile, ...])


def manifest_of(files: Iterable[TreeFile]) -> bytes:
    """The manifest of these files. Raises `InvalidInput` that names paths which cannot be in one directory."""
    ordered = sorted(files, key=lambda file: file.path)
    if complaints := list(_clashes(ordered)):
        raise InvalidInput("the files cannot be one directory", complaints)
    rows = [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in ordered]
    return orjson.dumps({"files": rows})


def read_manifest(content: bytes) -> Sequence[TreeFile]:
    """The files that a manifest lists, in its order. Raises `InvalidInput` where it is no manifest."""
    try:
        files = _FILES.validate_python(orjson.loads(content)["files"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise InvalidInput(f"the manifest is not valid: {error}") from error
    if any(_clashes(files)):
        raise InvalidInput("the manifest is not valid: its files cannot be one directory")
    return files


def sha256_hex(content: bytes) -> str:
    """The SHA-256 of these bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def file_key(manifest_key: str, sha256: str) -> str:
    """Where a file with that digest lies, of the tree whose manifest lies there."""
    return f"{files_prefix(manifest_key)}{sha256}"


def files_prefix(manifest_key: str) -> str:
    """What the keys of all files of a tree begin with."""
    return f"{manifest_key.rpartition('/')[0]}/files/"


def _clashes(files: Sequence[TreeFile]) -> Iterator[Complaint]:
    paths: set[str] = set()
    for file in files:
        if file.path in paths:
            yield Complaint(file.path, "it is there twice", "list each file once")
        paths.add(file.path)
    for path in paths:
        above = path
        while above := above.rpartition("/")[0]:
            if above in paths:
                yield Complaint(above, f"it is a file, and with {path} a folder, too", "rename one of them")
                break


def scan(folder: Path, told: Callable[[], object] = lambda: None) -> Sequence[TreeFile]:
    """Every file below a folder, read once; calls `told` before each. Empty folders are not part of a tree.

    Links to files count as what they lead to. Raises `InvalidInput` that names what cannot be in a tree: links to
    folders, devices, names that are no UTF-8, and too many files.
    """
    if not folder.is_dir():
        raise InvalidInput(complaints=[Complaint(str(folder), "it is no folder", "name a folder")])
    files: list[TreeFile] = []
    for path in _walk(folder):
        if len(files) == MOST_FILES:
            what = f"it has more than {MOST_FILES} files"
            raise InvalidInput("the folder is too much for a tree", [Complaint(str(folder), what, "upload an archive")])
        told()
        files.append(_measured(folder, path))
    if not files:
        raise InvalidInput(complaints=[Complaint(str(folder), "there is no file in it", "name another folder")])
    return files


def _measured(folder: Path, path: Path) -> TreeFile:
    name = path.relative_to(folder).as_posix()
    try:
        return TreeFile(path=name, bytes=path.stat().st_size, sha256=sha256_of(path))
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput("the folder holds what no tree can", [Complaint(repr(name), what)]) from error
    except OSError as error:
        raise InvalidInput("the file cannot be read", [Complaint(str(path), error.strerror or str(error))]) from error


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders.sort()
        for name in sorted([*names, *(each for each in folders if Path(here, each).is_symlink())]):
            path = Path(here, name)
            if not path.is_file():
                what = "it is neither a file nor a folder, or a link to a folder or to nothing"
                raise InvalidInput("the folder holds what no tree can", [Complaint(str(path), what, "remove it")])
            yield path


def _refuse_folder(error: OSError) -> None:
    complaint = Complaint(str(error.filename), error.strerror or str(error))
    raise InvalidInput("the folder cannot be read", [complaint]) from error
