"""Labels as YOLO detection reads them: `images/<split>/`, `labels/<split>/` and `data.yaml`.

Rows are boxes, also where the source has outlines: trainers take a file with both for a faulty one. The four numbers
have as many digits as it takes for every reader to get the same thousandths from them as from the source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from vlyard.formats.record import Question, Record
from vlyard.formats.tree import storable
from vlyard.formats.writers.digits import Corners, shortest
from vlyard.formats.writing import KEYPOINTS, OUTLINES, Frame, Made, Piece

DATA_YAML = "data.yaml"
_DIGITS = (6, 9, 12, 17)


@dataclass(frozen=True)
class YoloWriter:
    """Writes a file of rows for each picture."""

    negatives: bool = True
    unique_stems: bool = True

    @property
    def drops(self) -> Mapping[str, str]:
        return {**OUTLINES, **KEYPOINTS}

    def place(self, split: str, name: str) -> str:
        """As in the source, below `images/<split>/`.

        Readers turn the last folder `images` of a path into `labels`, so one inside the source's path gets another
        name: `train/images/1.jpg` becomes `images/train/train/_images/1.jpg`, and `_images` becomes `__images`.
        """
        parts = (f"_{part}" if part.lstrip("_") == "images" else part for part in name.split("/"))
        return f"images/{split}/{'/'.join(parts)}"

    def frame(self, file: str) -> Frame | None:
        """None: each file is one picture's."""
        del file
        return None

    def render(self, record: Record, questions: Sequence[Question]) -> Sequence[Piece]:
        """The picture's label file; an empty one where it shows nothing."""
        del questions
        stem, _, _ = record.picture.removeprefix("images/").rpartition(".")
        rows = "".join(
            f"{target.class_id} {shortest(target.box, _spelled, _read, _DIGITS)}\n" for target in record.targets
        )
        return (Piece(f"labels/{stem}.txt", (rows.encode(),)),)

    def finish(self, made: Made) -> Mapping[str, str]:
        """Write `data.yaml`, whose paths are relative to itself; returns the folder of each split."""
        folders = {split: f"images/{split}" for split in made.splits}
        # Ultralytics asks for both of these; a set without one of them has it twice.
        present = next(iter(folders.values()))
        data = {
            "train": present,
            "val": present,
            **folders,
            "names": {number: storable(name) for number, name in made.classes.items()},
        }
        (made.folder / DATA_YAML).write_text(yaml.safe_dump(data, allow_unicode=True, sort_keys=False), "utf-8")
        return folders


def _spelled(corners: Corners, digits: int) -> str:
    x1, y1, x2, y2 = corners
    return f"{(x1 + x2) / 2:.{digits}f} {(y1 + y2) / 2:.{digits}f} {x2 - x1:.{digits}f} {y2 - y1:.{digits}f}"


def _read(row: str) -> Corners:
    x, y, width, height = map(float, row.split())
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
