"""Samples that were read, as tensors: one by one, and in batches. It knows no template and no file of samples.

Tokens are kept as they were made, with one placeholder for each picture, in a few long arrays: processes that load
samples share them. A picture's placeholder is repeated, and the picture opened, when its sample is asked for.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from vlyard.errors import Complaint, UnreadablePicture
from vlyard.formats.picture import open_picture
from workers.qwen.inputs import patches
from workers.qwen.loading import Processor
from workers.qwen.request import Shown
from workers.qwen.training.pictures import grid_of

IGNORED = -100  # the label of a token that nothing is learned of, as torch's cross entropy has it
_PICTURE = 1  # what mm_token_type_ids calls a picture's token


@dataclass(frozen=True)
class Item:
    """One sample. T tokens, n pictures of P patches together."""

    ids: torch.Tensor  # (T,)
    labels: torch.Tensor  # (T,), IGNORED outside of the assistant's tokens
    pixels: torch.Tensor | None  # (P, 3 channels × 2 moments × 16 × 16) in fp32; None without pictures
    grids: torch.Tensor | None  # (n, 3): moments, rows and columns of patches


class Pictured(NamedTuple):
    """A picture of a sample, and the grid of patches that it is brought to."""

    name: str  # from the dataset's root
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Samples(Dataset[Item]):
    """All samples of a split."""

    root: Path  # that the pictures' names begin at
    processor: Processor
    budget: tuple[int, int]  # the smallest and the largest area of a picture, in pixels
    names: Sequence[str]  # of the files of samples
    sources: npt.NDArray[np.int64]  # (samples, 2): which file, and the number in it from 1
    ids: npt.NDArray[np.int32]  # of all samples, one placeholder for each picture
    learned: npt.NDArray[np.int8]  # of these, 1 where the assistant speaks
    starts: npt.NDArray[np.int64]  # (samples + 1,): where each one's tokens begin
    pictures: Sequence[Pictured]
    picture_starts: npt.NDArray[np.int64]  # (samples + 1,)
    lengths: Sequence[int]  # in tokens, with those of pictures

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Item:
        """Raises `UnreadablePicture` that names the sample."""
        ids, learned = self.tokens(index)
        pictures = self.pictures_of(index)
        times = np.ones(len(ids), np.int64)
        times[ids == self.processor.image_token_id] = [self.tokens_of(each) for each in pictures]
        ids = ids.repeat(times).astype(np.int64)
        labels = np.where(learned.repeat(times) == 1, ids, IGNORED)
        return Item(
            ids=torch.from_numpy(ids),
            labels=torch.from_numpy(labels),
            pixels=torch.cat([self._patches(index, each) for each in pictures]) if pictures else None,
            grids=torch.tensor([(1, each.rows, each.columns) for each in pictures]) if pictures else None,
        )

    def tokens(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
        """The sample's tokens with one placeholder for each picture, and which of them are learned."""
        part = slice(self.starts[index], self.starts[index + 1])
        return self.ids[part], self.learned[part]

    def pictures_of(self, index: int) -> Sequence[Pictured]:
        return self.pictures[self.picture_starts[index] : self.picture_starts[index + 1]]

    def tokens_of(self, picture: Pictured) -> int:
        """The tokens that stand for a picture."""
        return int(picture.rows * picture.columns // self.processor.image_processor.merge_size**2)

    def name(self, index: int) -> str:
        """What messages call a sample: `train.json: sample 3`."""
        file, number = self.sources[index]
        return f"{self.names[file]}: sample {number}"

    def _patches(self, index: int, pictured: Pictured) -> torch.Tensor:
        where = f"{self.name(index)}, {pictured.name}"
        picture = open_picture(self.root / pictured.name, name=where)
        grid = (pictured.rows, pictured.columns)
        if grid_of(self.processor, picture.width, picture.height, self.budget) != grid:
            what = f"it has {picture.width} × {picture.height} pixels, and its header said otherwise"
            raise UnreadablePicture(complaints=[Complaint(where, what, "replace the file")])
        return patches(self.processor, Shown(picture, self.budget, (1, *grid), self.tokens_of(pictured), b""))


_Numbers: TypeAlias = "array[int]"  # in quotes for Python 3.11


@dataclass
class Growing:
    """Samples while they are read."""

    names: list[str] = field(default_factory=list)
    sources: _Numbers = field(default_factory=lambda: array("q"))
    ids: _Numbers = field(default_factory=lambda: array("i"))
    learned: _Numbers = field(default_factory=lambda: array("b"))
    starts: _Numbers = field(default_factory=lambda: array("q", [0]))
    pictures: list[Pictured] = field(default_factory=list)
    picture_starts: _Numbers = field(default_factory=lambda: array("q", [0]))
    lengths: _Numbers = field(default_factory=lambda: array("q"))

    def add(
        self, number: int, ids: Sequence[int], learned: Sequence[int], pictures: Sequence[Pictured], length: int
    ) -> None:
        """One more sample of the file that was named last."""
        self.sources.extend((len(self.names) - 1, number))
        self.ids.extend(ids)
        self.learned.extend(learned)
        self.starts.append(len(self.ids))
        self.pictures.extend(pictures)
        self.picture_starts.append(len(self.pictures))
        self.lengths.append(length)

    def samples(self, root: Path, processor: Processor, budget: tuple[int, int]) -> Samples:
        """All of them."""
        return Samples(
            root, processor, budget,
            names=tuple(self.names),
            sources=np.array(self.sources, np.int64).reshape(-1, 2),
            ids=np.array(self.ids, np.int32),
            learned=np.array(self.learned, np.int8),
            starts=np.array(self.starts, np.int64),
            pictures=tuple(self.pictures),
            picture_starts=np.array(self.picture_starts, np.int64),
            lengths=self.lengths.tolist(),
        )  # fmt: skip


@dataclass(frozen=True)
class Collator:
    """Makes batches: what Qwen's processor gives for the same conversations, and their labels."""

    padding: int  # a token
    image_token: int

    def __call__(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """B samples, padded on the right to the longest of T tokens.

        `input_ids`, `attention_mask`, `mm_token_type_ids` (1 where a picture is) and `labels` are (B, T);
        `pixel_values` and `image_grid_thw` hold all pictures in their order, and are missing where there is none.
        """
        ids = _padded([item.ids for item in items], self.padding)
        batch: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": _padded([torch.ones_like(item.ids) for item in items], 0),
            "mm_token_type_ids": _padded([(item.ids == self.image_token).long() * _PICTURE for item in items], 0),
            "labels": _padded([item.labels for item in items], IGNORED),
        }
        pixels = [item.pixels for item in items if item.pixels is not None]
        if pixels:
            batch["pixel_values"] = torch.cat(pixels)
            batch["image_grid_thw"] = torch.cat([item.grids for item in items if item.grids is not None])
        return batch


def _padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
