from itertools import islice
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageChops

from vlyard.demo.shapes import CLASSES, SIDE, draw_dataset, draw_scenes
from vlyard.formats.box import Box


def test_the_same_seed_draws_the_same_pictures_and_another_draws_others() -> None:
    first, again, other = (next(draw_scenes(seed)) for seed in (3, 3, 4))

    assert (first.picture.tobytes(), first.label, first.box) == (again.picture.tobytes(), again.label, again.box)
    assert first.picture.tobytes() != other.picture.tobytes()


@pytest.mark.parametrize("side", [64, 128, 256])
def test_a_box_is_exactly_around_its_object(side: int) -> None:
    for scene in islice(draw_scenes(5, side=side), 20):
        left, top, right, bottom = (int(edge) for edge in scene.box.corners)
        colour = scene.picture.getpixel(((left + right) // 2, (top + bottom) // 2))
        flat = Image.new("RGB", scene.picture.size, colour)
        unlike = ImageChops.difference(scene.picture, flat).convert("L").point(lambda value: 255 * (value > 0))

        assert ImageChops.invert(unlike).getbbox() == (left, top, right, bottom)


def test_a_data_set_is_laid_out_as_ultralytics_lays_it_out(tmp_path: Path) -> None:
    pictures = draw_dataset(tmp_path, count=5, seed=6)

    listing = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert listing["names"] == dict(enumerate(CLASSES))
    assert listing["train"] == "images"
    assert [path.relative_to(tmp_path).as_posix() for path in pictures] == [f"images/000{n}.png" for n in range(5)]
    for path, scene in zip(pictures, draw_scenes(6), strict=False):
        number, *numbers = (tmp_path / "labels" / f"{path.stem}.txt").read_text().split()
        assert CLASSES[int(number)] == scene.label
        assert Box.from_centre(*map(float, numbers)).iou(scene.box) > 0.999
        with Image.open(path) as picture:
            assert picture.size == (SIDE, SIDE)
