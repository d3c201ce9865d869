"""Most pictures go a short way through a conversion, and nobody can tell by what comes out."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.language.yolo_sets import converted, options, picture, write_set
from vlyard.formats.asking import Asker
from vlyard.formats.choosing import Choice
from vlyard.formats.classes import Classes
from vlyard.formats.readers.yolo_rows import plain_rows
from vlyard.formats.reading import Reader, Wanted
from vlyard.formats.recognition import recognise
from vlyard.formats.short_way import ShortWay
from vlyard.formats.tree import Tree
from vlyard.formats.writers.table import make_writer
from vlyard.jobs.conversion import ConversionOptions

NAMES = """[cat, 'the <image> " dog']"""
# Faultless rows, and what is unusual about others: each alone must not be taken for faultless.
USUAL = (
    "0 0.5 0.5 0.5 0.5", "1 .25 .25 .1 .2", "0\t.5 .5  .3 .3", " 1 .5 .5 .4 .4 ", "", "01 .3 .3 .2 .2",
    "0 5e-1 .5 .1 .1",
    "+1 +.5 .5 .6 .6", "0 0.9 0.5 0.2000002 0.5", "1 0.500000 0.500000 1.000000 1.000000", "1 0.1 0.1 0.0025 0.0015",
)  # fmt: skip
UNUSUAL = (
    "0 .5 .5 .0001 .5", "2 .5 .5 .5 .5", "0.0 .5 .5 .5 .5", "0 .5 .5 .5", "0 .5 .5 .5 .5 .9", "0 0.95 0.5 0.2 0.5",
    "0 .5 .5 -.5 .5", "0 nan .5 .5 .5", "0 1_0 .5 .5 .5", "cat .5 .5 .5 .5", "0 0,5 0,5 0,2 0,2", "0,.5,.5,.5,.5",
    "0 320 240 64 48", "0 .1 .1 .9 .1 .9 .9", "0 . .5 .5 .5", "0 1.2.3 .5 .5 .5", "-1 .5 .5 .5 .5", "0 .5 .5 .5 .5\r0",
    "０ .5 .5 .5 .5", "0 .5 .5 1e999 .5", "9" * 30 + " .5 .5 .5 .5", "0 .5 .5 .5 .5 \x85",
)  # fmt: skip
PICTURES = (picture(), picture((90, 90)), picture(turned=6), picture(file_format="PNG"))
FORMS = ("sharegpt", "sharegpt-from-value", "qwen", "trl", "swift")


@st.composite
def files(draw: st.DrawFn) -> dict[str, str | bytes]:
    """A set of some pictures whose label files have all sorts of rows."""
    made: dict[str, str | bytes] = {"data.yaml": f"train: images/train\nval: images/val\nnames: {NAMES}\n"}
    for number in range(draw(st.integers(2, 5))):
        split = draw(st.sampled_from(["train", "train", "val"]))
        rows = draw(st.lists(st.sampled_from(USUAL * 5 + UNUSUAL), min_size=1, max_size=4, unique=True))
        ending = draw(st.sampled_from(["\n", "\n", "\r\n"]))
        made[f"images/{split}/{number}.jpg"] = draw(st.sampled_from(PICTURES))
        made[f"labels/{split}/{number}.txt"] = ending.join(rows) + ending * draw(st.integers(0, 2))
    made["images/train/x.jpg"], made["labels/train/x.txt"] = PICTURES[0], USUAL[0]
    return made


@settings(max_examples=40)
@example(made={"data.yaml": f"train: images/train\nnames: {NAMES}\n", "images/train/a.jpg": PICTURES[0],
               "labels/train/a.txt": "\n".join(USUAL)}, to="sharegpt")  # fmt: skip
@given(made=files(), to=st.sampled_from(FORMS))
def test_the_short_way_gives_what_the_long_way_gives(made: dict[str, str | bytes], to: str) -> None:
    with TemporaryDirectory() as name:
        source = write_set(Path(name, "in"), made)
        chosen: dict[str, Any] = {"to": to, "check": "header"}
        short, long = Path(name, "short"), Path(name, "long")
        converted(source, short, options(**chosen))
        converted(source, long, options(**chosen, min_size=1e-9))  # which leaves nothing out, and is asked of each box

        written = sorted(str(path.relative_to(long)) for path in long.rglob("*"))
        assert sorted(str(path.relative_to(short)) for path in short.rglob("*")) == written
        for each in ("report.json", "statistics.json"):
            assert told(short / each) == told(long / each)
        for path in (*long.glob("*.json"), *long.glob("*.jsonl"), *long.glob("*.md")):
            if path.name not in {"report.json", "statistics.json"}:
                assert (short / path.name).read_bytes() == path.read_bytes()


def told(path: Path) -> dict[str, Any]:
    """What a file of JSON says, in one level: all but the options."""
    flat: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if inner is None:
            # Sums of floats depend on their order, in the last digits.
            flat[name] = f"{value:.10g}" if isinstance(value, float) else value
        for key, each in inner or ():
            if (name, key) != ("", "options"):
                add(f"{name}/{key}", each)

    add("", orjson.loads(path.read_bytes()))
    return flat


@pytest.mark.parametrize("row", USUAL)
def test_a_usual_row_is_read_the_short_way(row: str, tmp_path: Path) -> None:
    label = tmp_path / "a.txt"
    label.write_bytes(f"0 .7 .7 .1 .1\n{row}\n".encode())

    rows = plain_rows(str(label))

    assert rows is not None
    assert len(rows.ids) == len(rows.corners) == (2 if row else 1)


@pytest.mark.parametrize("row", UNUSUAL)
def test_a_picture_with_an_unusual_row_does_not_go_the_short_way(row: str, tmp_path: Path) -> None:
    way = short_way(tmp_path, options())
    assert way is not None
    label = tmp_path / "b.txt"
    label.write_bytes(f"0 .7 .7 .1 .1\n{row}\n".encode())

    assert way.sample(str(label), "b.jpg") is None


@pytest.mark.parametrize(
    ("chosen", "short"),
    [
        *(({"to": form}, form != "swift") for form in FORMS),
        ({"to": "tutorial", "answer": "objects"}, False),
        ({"to": "yolo"}, False),
        ({"answer": "objects"}, False),
        ({"targets": "points"}, False),
        ({"order": "position"}, False),
        ({"max_boxes": 4}, False),
        ({"classes": ("cat",)}, False),
        ({"coordinates": "pixels-xyxy"}, False),
    ],
)
def test_who_wants_more_than_plain_boxes_goes_the_long_way(chosen: dict[str, Any], short: bool, tmp_path: Path) -> None:
    assert (short_way(tmp_path, options(**chosen)) is not None) == short


def short_way(folder: Path, chosen: ConversionOptions) -> ShortWay | None:
    """The short way for a set of one picture."""
    source = write_set(
        folder / "in",
        {"data.yaml": f"train: images\nnames: {NAMES}\n", "images/a.jpg": PICTURES[0], "labels/a.txt": USUAL[0]},
    )
    reader: Reader = recognise(Tree(source), Wanted(coordinates=chosen.coordinates))
    choice = Choice.of(chosen, reader.classes)
    classes = Classes(choice.classes)
    return ShortWay.of(reader, choice, Asker(chosen, classes), make_writer(chosen, classes, reader.splits), chosen)
