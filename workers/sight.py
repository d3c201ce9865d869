"""Pictures on their way to a model: opened when they are needed, and so many pixels of them at a time.

A file of ten kilobytes may hold a picture of 88 megapixels: what is in memory is counted in pixels, not in files.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from vlyard.errors import Complaint, UnreadablePicture
from vlyard.formats.picture import DEFAULT_MAX_PIXELS, open_picture, opened

_SLIMMEST = 200  # Qwen's own limit: transformers' smart_resize refuses what is slimmer
_PATIENCE = 0.1  # seconds between two looks for a stop, while somebody waits for room


@dataclass(frozen=True)
class Given:
    """A picture as a job was given it; what is read of it is not kept here."""

    source: Path | bytes
    name: str  # what an error calls it

    def size(self) -> tuple[int, int]:
        """Its sides in pixels, from its header alone: on its side where its EXIF turns it. Raises as `see`."""
        return self._size

    @cached_property
    def _size(self) -> tuple[int, int]:
        with opened(self.source, DEFAULT_MAX_PIXELS, self.name) as picture:
            size = picture.size
        _expect_stout(size, self.name)
        return size

    def see(self) -> Image.Image:
        """The picture as displayed, upright RGB. Raises as `see`."""
        return see(self.source, self.name)


def see(source: Path | bytes, name: str) -> Image.Image:
    """The picture as displayed, upright RGB. Raises `UnreadablePicture`, also for what no model of ours can look at."""
    picture = open_picture(source, name=name)
    _expect_stout(picture.size, name)
    return picture


def _expect_stout(size: tuple[int, int], name: str) -> None:
    if max(size) > _SLIMMEST * min(size):
        what = f"it is {size[0]} × {size[1]} pixels, and one side is more than {_SLIMMEST} times the other"
        raise UnreadablePicture("The picture cannot be shown to the model", [Complaint(name, what, "cut it in pieces")])


class PixelRoom:
    """How many pixels may be in memory at a time; who comes first goes first. Safe to use from any thread."""

    def __init__(self, pixels: int) -> None:
        self._pixels, self._taken = pixels, 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int, check: Callable[[], None]) -> Iterator[None]:
        """Wait for room, and have it for as long as the block lasts. What is larger than all room has it alone.

        `check` is called while it waits, and ends the waiting by raising.
        """
        with self._changed:
            self._enter(pixels, check)
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()

    def _enter(self, pixels: int, check: Callable[[], None]) -> None:
        mine = object()
        self._waiting.append(mine)
        try:
            while self._waiting[0] is not mine or (self._taken and self._taken + pixels > self._pixels):
                check()
                self._changed.wait(_PATIENCE)
            self._taken += pixels
        finally:
            self._waiting.remove(mine)
            self._changed.notify_all()
