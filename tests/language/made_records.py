"""Records made by hand, and what a writer makes of them on the disk."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from vlyard.formats.asking import Asker
from vlyard.formats.box import Box
from vlyard.formats.classes import Classes
from vlyard.formats.record import Keypoint, Look, Record, Target, Value
from vlyard.formats.streams import Streams
from vlyard.formats.writers.table import make_writer
from vlyard.formats.writing import Made
from vlyard.jobs.conversion import ConversionOptions

NAMES = {0: "cat", 1: "dog", 2: "bird"}
CLASSES = Classes(NAMES)
SIZE = (640, 480)


def target(
    label: str = "cat",
    corners: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75),
    *,
    class_id: int | None = None,
    attributes: Mapping[str, Value] | None = None,
    keypoints: tuple[Keypoint, ...] = (),
) -> Target:
    """An object; its class id is that of NAMES where it has one."""
    ids = {name: number for number, name in NAMES.items()}
    number = ids.get(label, 0) if class_id is None else class_id
    return Target(number, label, Box.relative(corners), (), keypoints, attributes or {})


def record(
    *targets: Target, name: str = "a.jpg", split: str = "train", index: int = 0, look: Look | None = None
) -> Record:
    """A picture of SIZE with these objects."""
    return Record(index, f"/source/{name}", f"images/{name}", split, look or Look(*SIZE), targets)


def grid(count: int, label: str = "cat") -> tuple[Target, ...]:
    """So many objects from top to bottom, one below the other, in a narrow column."""
    return tuple(target(label, (0.1, place / count, 0.2, (place + 0.5) / count)) for place in range(count))


def written(
    folder: Path,
    records: Iterable[Record],
    classes: Classes = CLASSES,
    splits: tuple[str, ...] = ("train", "val", "test"),
    **options: Any,
) -> Mapping[str, str]:
    """Ask about the records and write them below a folder, pictures included; returns the data sets by split."""
    chosen = ConversionOptions(**options)
    writer, asker = make_writer(chosen, classes, splits), Asker(chosen, classes)
    met: dict[str, None] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with Streams(folder, writer) as streams:
        for each in records:
            questions = () if chosen.to in {"yolo", "coco", "voc"} else asker.questions(each)
            pieces = writer.render(each, questions)
            for piece in pieces:
                if writer.frame(piece.file) is not None:
                    streams.add(piece.file, piece.entries)
                    continue
                (folder / piece.file).parent.mkdir(parents=True, exist_ok=True)
                (folder / piece.file).write_bytes(b"".join(piece.entries))
            if pieces:
                met[each.split] = None
                (folder / each.picture).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 6)).save(folder / each.picture)
    return writer.finish(Made(folder, tuple(split for split in splits if split in met), classes.names or {}))


labels = st.one_of(
    st.sampled_from([*NAMES.values(), "<image>", "<bbox>", 'a "b" \\ {c}', "猫", "two\nlines", "\x00\x7f\u2028"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
)
edges = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: (min(pair), max(pair)))


@st.composite
def targets_anywhere(draw: st.DrawFn) -> Target:
    """Objects with any label, anywhere in the picture, of any size."""
    (x1, x2), (y1, y2) = draw(edges), draw(edges)
    return target(draw(labels), (x1, y1, x2, y2), class_id=draw(st.integers(0, 99)))
