"""A large YOLO data set for benchmarks: real JPEGs under many names, the same in every run."""

import io
import random
from pathlib import Path

from PIL import Image

NAMES = ("person", "car", "dog", "house")
_SHAPES = ((640, 480), (480, 640), (800, 600), (512, 512))  # pixels
_BOXES = (2, 6)  # of a picture, at least and at most


def write_set(folder: Path, pictures: int) -> Path:
    """Write so many pictures, with four boxes each in the mean, as Ultralytics lays them out; returns the folder."""
    dice = random.Random(1)
    contents = [_jpeg(size) for size in _SHAPES]
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for number in range(pictures):
        (images / f"street_{number:06}.jpg").write_bytes(contents[number % len(contents)])
        lines = (_line(dice) for _ in range(dice.randint(*_BOXES)))
        (labels / f"street_{number:06}.txt").write_text("".join(lines))
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    (folder / "data.yaml").write_text(f"train: images/train\nnames:\n{names}")
    return folder


def _jpeg(size: tuple[int, int]) -> bytes:
    """A picture with a camera's EXIF block."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0132] = "Camera", 1, "2026:01:01 12:00:00"
    ground = Image.linear_gradient("L").resize(size)
    picture = Image.merge("RGB", (ground, ground.rotate(180), Image.effect_noise(size, 12)))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=60, exif=exif)
    return file.getvalue()


def _line(dice: random.Random) -> str:
    width, height = dice.uniform(0.02, 0.5), dice.uniform(0.02, 0.5)
    x, y = dice.uniform(width / 2, 1 - width / 2), dice.uniform(height / 2, 1 - height / 2)
    return f"{dice.randrange(len(NAMES))} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n"
