"""Pictures of one coloured shape on grey noise, and their YOLO labels. It knows no model and no job.

The demo's data set and the pictures that the demo model learned from are drawn here, with different seeds. Only
Python's `random` is used, whose numbers are the same on every machine.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image, ImageChops, ImageDraw

from vlyard.formats.box import Box

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220)}
SHAPES = ("circle", "rectangle")
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
SIDE = 256  # pixels

_SMALLEST, _LARGEST = 0.2, 0.55  # an object's sides, as a part of the picture's


@dataclass(frozen=True)
class Scene:
    """A picture and the one object on it."""

    picture: Image.Image  # RGB, square
    label: str  # one of CLASSES
    box: Box  # in whole pixels: the edges of the pixels that the object covers


def draw_scenes(seed: int, *, side: int = SIDE) -> Iterator[Scene]:
    """Scenes without end, `side` pixels wide and high; the same seed gives the same scenes."""
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    while True:
        yield _draw_scene(rng, side)


def draw_dataset(folder: Path, count: int, seed: int, *, side: int = SIDE) -> tuple[Path, ...]:
    """Write `count` pictures with labels as Ultralytics lays them out; returns the pictures' paths.

    Makes `images/0000.png`, `labels/0000.txt` and so on, and `data.yaml`. A label line is the class's number, then
    the box's centre x, centre y, width and height as parts of the picture's.
    """
    _describe(folder, {"train": "images", "val": "images"})
    return _draw_split(folder, "", count, seed, side)


def draw_splits(folder: Path, train: int, val: int, seed: int, *, side: int = SIDE) -> tuple[Path, ...]:
    """The same with two splits in folders of their own, drawn with two seeds; returns the paths of val's pictures."""
    _describe(folder, {"train": "train/images", "val": "val/images"})
    _draw_split(folder, "train", train, seed, side)
    return _draw_split(folder, "val", val, seed + 1, side)


def _describe(folder: Path, splits: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    listing = {"path": ".", **splits, "names": dict(enumerate(CLASSES))}
    (folder / "data.yaml").write_text(yaml.safe_dump(listing, sort_keys=False), encoding="utf-8")


def _draw_split(folder: Path, split: str, count: int, seed: int, side: int) -> tuple[Path, ...]:
    for name in ("images", "labels"):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    pictures = []
    for number, scene in zip(range(count), draw_scenes(seed, side=side), strict=False):
        picture = folder / split / "images" / f"{number:04d}.png"
        scene.picture.save(picture)
        (folder / split / "labels" / f"{number:04d}.txt").write_text(_label_line(scene), encoding="utf-8")
        pictures.append(picture)
    return tuple(pictures)


def _draw_scene(rng: random.Random, side: int) -> Scene:
    picture = _grey_noise(rng, side)
    colour, shape = rng.choice(tuple(COLOURS)), rng.choice(SHAPES)
    width = height = _length(rng, side)
    if shape == "rectangle":
        height = _length(rng, side)
    left, top = rng.randint(0, side - width), rng.randint(0, side - height)
    red, green, blue = (max(0, min(255, part + rng.randint(-25, 25))) for part in COLOURS[colour])
    pen = ImageDraw.Draw(picture)
    outline = (left, top, left + width - 1, top + height - 1)  # Pillow fills up to and including the last pixel
    if shape == "circle":
        pen.ellipse(outline, fill=(red, green, blue))
    else:
        pen.rectangle(outline, fill=(red, green, blue))
    box = Box.from_pixels((left, top, left + width, top + height), side, side)
    return Scene(picture, f"{colour} {shape}", box)


def _length(rng: random.Random, side: int) -> int:
    return round(rng.uniform(_SMALLEST, _LARGEST) * side)


def _grey_noise(rng: random.Random, side: int) -> Image.Image:
    """A background of random brightness and tint, with grain that the three colours share and grain of their own."""
    level, strength = rng.randint(70, 180), rng.uniform(10, 45)
    grain = Image.frombytes("L", (side, side), rng.randbytes(side * side))
    bands = []
    for _ in "RGB":
        mean = level + rng.randint(-12, 12)
        bands.append(grain.point([round(mean + strength * (value / 127.5 - 1)) for value in range(256)]))
    own = Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side)).point(
        [value // 10 for value in range(256)] * 3
    )
    return ImageChops.add(Image.merge("RGB", bands), own, offset=-12)


def _label_line(scene: Scene) -> str:
    x1, y1, x2, y2 = scene.box.to_relative().corners
    numbers = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return f"{CLASSES.index(scene.label)} {' '.join(f'{number:.6f}' for number in numbers)}\n"
