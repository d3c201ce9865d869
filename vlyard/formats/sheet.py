"""A conversion's contact sheet: pictures from the whole set, drawn in a thread while the others are converted."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from PIL import Image

from vlyard.errors import UnreadablePicture
from vlyard.formats.drawing import CELL, contact_sheet, sheet_cell
from vlyard.formats.picture import preview
from vlyard.formats.work import Shown

_PICTURES = 12


class Sheet:
    """As a context it ends its thread, also where the sheet was not finished.

    `expected` is about how many pictures the set has: as the conversion goes on, each twelfth of them gives one.
    """

    def __init__(self, path: Path, expected: int, max_pixels: int) -> None:
        self._path, self._expected, self._max_pixels = path, max(expected, 1), max_pixels
        self._thread = ThreadPoolExecutor(1, "sheet")
        self._cells: list[Future[Image.Image | None]] = []
        self._saved: Future[None] | None = None

    def offer(self, shown: list[Shown], done: int) -> None:
        """Take from pictures with objects what the sheet lacks, now that so many pictures are done."""
        due = min(-(-done * _PICTURES // self._expected), _PICTURES) - len(self._cells)
        self._cells += [self._thread.submit(self._cell, each) for each in shown[: max(due, 0)]]
        if len(self._cells) == _PICTURES and self._saved is None:
            self._saved = self._thread.submit(self._save)

    def finish(self) -> None:
        """Have the sheet written as PNG, with the pictures that it has."""
        (self._saved or self._thread.submit(self._save)).result()

    def _save(self) -> None:
        cells = [cell for drawn in self._cells if (cell := drawn.result()) is not None]
        contact_sheet(cells or [Image.new("RGB", (1, 1))]).save(self._path, compress_level=1)

    def _cell(self, shown: Shown) -> Image.Image | None:
        try:
            picture = preview(Path(shown.path), CELL, max_pixels=self._max_pixels)
        except UnreadablePicture:  # nobody was asked to look at its pixels: the sheet does without it
            return None
        return sheet_cell(picture, shown.boxes)

    def __enter__(self) -> "Sheet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
