"""Where an export goes besides the store: a new folder of the operator's export directory. It reads no weights."""

import errno
import shutil
from pathlib import Path
from uuid import uuid4

from vlyard.errors import Complaint, DiskFull, InvalidInput
from workers.qwen.exporting.folder import SUMS

_FULL = {errno.ENOSPC, errno.EDQUOT}


def require_place(name: str, export_dir: Path | None) -> Path:
    """The folder that an export would be put into. Raises `InvalidInput` where it cannot be."""
    if export_dir is None:
        raise _refused("this worker has no export directory", "ask the operator to set VLYARD_EXPORT_DIR")
    if not export_dir.is_dir():
        raise _refused("the worker's export directory is not there", "ask the operator to look at VLYARD_EXPORT_DIR")
    if not name or name.startswith(".") or Path(name).name != name:
        raise _refused(f"{name!r} is not the name of one folder", "give a name without slashes and leading dots")
    if (export_dir / name).exists() or (export_dir / name).is_symlink():
        raise _refused(f"there is a folder {name!r} already, and it is not written over", "choose another name")
    return export_dir / name


def _is_there(folder: Path, name: str, export_dir: Path) -> bool:
    """Whether the same export lies there already: an attempt whose worker was lost may have put it."""
    if Path(name).name != name or not (folder / SUMS).is_file():
        return False
    placed = export_dir / name / SUMS
    return placed.is_file() and placed.read_bytes() == (folder / SUMS).read_bytes()


def place(folder: Path, name: str, export_dir: Path | None) -> Path:
    """Copy a folder into a new one of the export directory: it is there whole, under its name, or not at all.

    Where the very same export is there, nothing is done. Raises `InvalidInput` where there is no export directory or
    the name is taken, and `DiskFull`.
    """
    if export_dir is not None and _is_there(folder, name, export_dir):
        return export_dir / name
    target = require_place(name, export_dir)
    partial = target.with_name(f".{name}.{uuid4().hex}.part")
    try:
        shutil.copytree(folder, partial, copy_function=shutil.copyfile)
        partial.rename(target)
    except OSError as error:
        if _is_full(error):
            raise DiskFull("the disk of the export directory (VLYARD_EXPORT_DIR) is full") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _is_full(error: OSError) -> bool:
    """`copytree` gathers what its files met into one error, as texts."""
    return error.errno in _FULL or any(f"[Errno {number}]" in str(error) for number in _FULL)


def _refused(what: str, fix: str) -> InvalidInput:
    return InvalidInput("The export cannot be put there", [Complaint("/spec/folder", what, fix)])
