"""Checkpoints on their way to the store while the training goes on: one at a time, in their order."""

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from workers.context import Context


class Keeping:
    """Stores the checkpoints of one attempt, of which so many of the latest stay.

    As a context it ends when the last one is stored. What cannot be stored is raised by the next `keep`, or at the end.
    """

    def __init__(self, context: Context, latest: int) -> None:
        self._context = context
        self._latest = latest
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._under_way: Future[None] | None = None

    def keep(self, folder: Path, step: int) -> None:
        """Store a folder as the checkpoint of a step, once the one before is stored; then the folder may go."""
        self._settle()
        own = self._context.folder / f"keeping-{step}"
        shutil.copytree(folder, own, copy_function=os.link)  # whoever made it removes it when there are newer ones
        self._under_way = self._thread.submit(self._store, own, step)

    def _store(self, folder: Path, step: int) -> None:
        self._context.keep(folder, step, self._latest)
        shutil.rmtree(folder)

    def _settle(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self._settle()
