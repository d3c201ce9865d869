"""One loader, one picture: upright, RGB, or refused with a reason."""

import io
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.language.yolo_sets import picture
from vlyard.errors import UnreadablePicture
from vlyard.formats.picture import open_picture, picture_size, preview, read_picture, write_upright


def _saved(image: Image.Image, file_format: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **how)
    return file.getvalue()


@pytest.mark.parametrize(
    ("orientation", "size", "red_corner"),
    [
        (1, (40, 30), (2, 15)),
        (2, (40, 30), (37, 15)),
        (3, (40, 30), (37, 15)),
        (4, (40, 30), (2, 15)),
        (5, (30, 40), (15, 2)),
        (6, (30, 40), (15, 2)),
        (7, (30, 40), (15, 37)),
        (8, (30, 40), (15, 37)),
    ],
)
def test_each_exif_orientation_is_shown_upright(
    orientation: int, size: tuple[int, int], red_corner: tuple[int, int]
) -> None:
    file = picture((40, 30), turned=orientation)
    opened = open_picture(file)
    assert opened.size == picture_size(file) == size
    pixel = opened.getpixel(red_corner)
    assert isinstance(pixel, tuple)
    assert pixel[0] > 200
    assert pixel[1] < 60


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_preview_is_the_same_picture_and_smaller_where_that_is_quicker(orientation: int, file_format: str) -> None:
    file = picture((400, 300), turned=orientation, file_format=file_format)
    whole = open_picture(file)

    shown = preview(file, 100)

    size = (whole.width // 4, whole.height // 4)
    assert shown.size == (size if file_format == "JPEG" else whole.size)
    differences = ImageChops.difference(shown.resize(size), whole.resize(size)).convert("L")
    assert sum(value > 40 for value in differences.tobytes()) < 0.03 * size[0] * size[1]  # but at the colours' edge


def test_a_preview_of_what_is_small_is_the_picture() -> None:
    assert preview(picture((40, 30)), 100) == open_picture(picture((40, 30)))


def test_an_orientation_behind_the_pixels_of_a_png_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = _saved(Image.new("RGB", (40, 30)), "PNG", exif=exif)
    chunk = file[file.index(b"eXIf") - 4 : file.index(b"eXIf") + 8 + len(exif.tobytes())]
    chunk = chunk[: 12 + int.from_bytes(chunk[:4], "big")]
    behind = file.replace(chunk, b"").replace(b"\0\0\0\0IEND", chunk + b"\0\0\0\0IEND")
    assert behind.index(b"eXIf") > behind.index(b"IDAT")
    assert open_picture(behind).size == picture_size(behind) == (30, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_hide_the_picture() -> None:
    file = _saved(Image.new("RGB", (40, 30)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_picture(file).size == picture_size(file) == (40, 30)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "I;16", "I", "F", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    file_format = "TIFF" if mode in {"CMYK", "YCbCr", "I", "F"} else "PNG"
    opened = open_picture(_saved(Image.new(mode, (40, 30)), file_format))
    assert opened.mode == "RGB"
    assert opened.size == (40, 30)


def test_transparent_parts_become_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_picture(_saved(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    assert open_picture(_saved(palette, "PNG", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    assert open_picture(_saved(Image.new("I;16", (4, 4), 32768), "PNG")).getpixel((0, 0)) == (128, 128, 128)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    file = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_picture(file).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_picture_is_refused_and_named(tmp_path: Path, file_format: str) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    whole = _saved(noise, file_format)
    path = tmp_path / "half.img"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadablePicture, match=r"half\.img"):
        open_picture(path)


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff"])
def test_what_is_not_a_picture_is_refused_and_named(content: bytes) -> None:
    with pytest.raises(UnreadablePicture, match="street/7"):
        open_picture(content, name="street/7.jpg")


def test_a_picture_over_the_pixel_limit_is_refused_before_it_is_decoded() -> None:
    bomb = _saved(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(UnreadablePicture, match="pixels"):
        open_picture(bomb)
    with pytest.raises(UnreadablePicture, match="limit of 1199"):
        picture_size(picture((40, 30)), max_pixels=1199)
    assert open_picture(picture((40, 30)), max_pixels=1200).size == (40, 30)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_turned_picture_is_written_upright_in_its_own_format(tmp_path: Path, file_format: str) -> None:
    turned = read_picture(picture((40, 30), file_format=file_format, turned=6))
    write_upright(turned, tmp_path / "upright")
    with Image.open(tmp_path / "upright") as plain:  # as a trainer that ignores EXIF reads it
        assert plain.size == (30, 40)
        assert plain.format == file_format
        assert plain.getexif().get(0x0112, 1) == 1
