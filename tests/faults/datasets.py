"""Uploads that keep a child process busy, or fill a disk."""

import zipfile
from pathlib import Path
from uuid import UUID

from control.accounts import Caller
from tests.system import System
from vlyard.demo.shapes import draw_dataset
from vlyard.formats.archive import pack

_PICTURES = 4_000


def small(system: System, caller: Caller, folder: Path) -> UUID:
    """Two pictures: converted in a second or two."""
    draw_dataset(folder / "small", count=2, seed=1)
    pack(folder / "small", folder / "small.zip")
    return system.upload(caller, "small.zip", (folder / "small.zip").read_bytes(), "application/zip")


def large(system: System, caller: Caller, folder: Path) -> UUID:
    """So many pictures that their conversion takes many seconds, and as many files: dozens of megabytes on a disk."""
    draw_dataset(folder / "one", count=1, seed=1, side=32)
    with zipfile.ZipFile(folder / "large.zip", "w") as archive:
        for number in range(_PICTURES):
            archive.write(folder / "one" / "images" / "0000.png", f"images/{number}.png")
            archive.write(folder / "one" / "labels" / "0000.txt", f"labels/{number}.txt")
    return system.upload(caller, "large.zip", (folder / "large.zip").read_bytes(), "application/zip")
