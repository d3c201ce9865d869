"""The pictures of a dataset before they are learned: where they are, how large, and how many patches the model sees.

It knows no sample. Every picture is decoded once, several at a time, and let go again: what cannot be read is known
before anything is learned.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from vlyard.errors import UnreadablePicture
from vlyard.formats.looking import look
from vlyard.formats.picture import DEFAULT_MAX_PIXELS
from vlyard.formats.tree import Tree
from vlyard.jobs.learning import LearningSpec
from workers.qwen.inputs import encode
from workers.qwen.loading import Processor
from workers.qwen.request import Budget, Request, Turn
from workers.qwen.training.turns import Unlearnable

_ADDRESSES = ("http:", "https:", "data:", "s3:", "oss:")
_REMEMBERED = 100_000  # pictures, of which several samples may be
_DECODED_AT_ONCE = 8  # at most; each is in memory meanwhile


class Measured(NamedTuple):
    """A picture that is there."""

    name: str  # from the dataset's root
    size: tuple[int, int]  # width and height as displayed, in pixels
    grid: tuple[int, int]  # rows and columns of patches


@dataclass
class Pictures:
    """Those of one dataset, for one model and pixel budget."""

    tree: Tree
    processor: Processor
    budget: tuple[int, int]  # the smallest and the largest area, in pixels
    _known: dict[tuple[str, Path], Measured] = field(default_factory=dict)

    def measure_all(self, written: Iterable[str], base: Path) -> Mapping[str, "Measured | Unlearnable"]:
        """The pictures that paths mean, each of which is there or has a reason why it cannot be learned."""
        paths = list(dict.fromkeys(written))

        def measured(path: str) -> Measured | Unlearnable:
            try:
                return self.measure(path, base)
            except Unlearnable as reason:
                return reason

        with ThreadPoolExecutor(min(_DECODED_AT_ONCE, os.cpu_count() or 1), "pictures") as threads:
            return dict(zip(paths, threads.map(measured, paths), strict=True))

    def measure(self, written: str, base: Path) -> Measured:
        """The picture that a path means, as seen from a folder or from the root. Raises `Unlearnable`."""
        found = self._known.get((written, base))
        if found is None:
            found = self._measure(written, base)
            if len(self._known) < _REMEMBERED:
                self._known[written, base] = found
        return found

    def tokens_of(self, grid: tuple[int, int]) -> int:
        """The tokens that stand for a picture of so many rows and columns of patches."""
        return int(grid[0] * grid[1] // self.processor.image_processor.merge_size**2)

    def _measure(self, written: str, base: Path) -> Measured:
        if written.lower().startswith(_ADDRESSES):
            raise Unlearnable("no_picture", f"its picture {written[:80]!r} is an address, and none is fetched")
        path = self.tree.find(written.removeprefix("file://"), [base, self.tree.root])
        if path is None or not path.is_file() or not _is_inside(path, self.tree.root):
            raise Unlearnable("no_picture", f"its picture {written[:200]!r} is not in the dataset")
        name = self.tree.name(path)
        try:
            seen = look(str(path), "decode", max_pixels=DEFAULT_MAX_PIXELS, name=name)
        except UnreadablePicture as error:
            raise Unlearnable("unreadable_picture", "; ".join(map(str, error.complaints))) from error
        try:
            return Measured(
                name, (seen.width, seen.height), grid_of(self.processor, seen.width, seen.height, self.budget)
            )
        except ValueError as error:
            what = f"the model's processor refuses its picture {name!r}: {error}"
            raise Unlearnable("unusable_picture", what) from error


def grid_of(processor: Processor, width: int, height: int, budget: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches of a picture of that size in pixels, exactly as `workers.qwen.inputs` counts them.

    Raises `ValueError` where the processor refuses it, as it does where one side is 200 times the other.
    """
    images = processor.image_processor
    sides: Sequence[int] = smart_resize(
        height, width, images.patch_size * images.merge_size, min_pixels=budget[0], max_pixels=budget[1]
    )
    return sides[0] // images.patch_size, sides[1] // images.patch_size


def budget_of(processor: Processor, spec: LearningSpec) -> tuple[int, int]:
    """The areas in pixels that every picture is brought between: the specification's, else the processor's own.

    It is what a question about a picture would be given. Raises `InvalidInput`.
    """
    turns = (Turn("user", (Image.new("RGB", (1, 1)),)),)
    [shown] = encode(processor, Request(turns, budget=Budget(spec.min_pixels, spec.max_pixels))).shown
    return shown.size


def _is_inside(path: Path, root: Path) -> bool:
    """Whether it is a file of the folder even once links are followed."""
    return os.path.realpath(path).startswith(f"{str(root).rstrip('/')}/")
