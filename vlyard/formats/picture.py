"""Opening pictures: the one loader, so that a picture is the same everywhere. It knows nothing of labels or models.

YOLO labels and people both refer to the picture as displayed, so the EXIF orientation is applied here, once.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, UnidentifiedImageError

from vlyard.errors import Complaint, UnreadablePicture
from vlyard.formats import faults

DEFAULT_MAX_PIXELS = 2**30 // 4 // 3  # a quarter of a GiB as RGB, which is also where Pillow starts to warn

# A list of what is let in: some of Pillow's other readers start programs (EPS) or read whole documents (PDF, PSD).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".avif"}
)

_ORIENTATION = 0x0112
_AS_DISPLAYED = {  # EXIF 2.3, tag 0x0112: what to do to see the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV"})
_ON_ITS_SIDE = frozenset({5, 6, 7, 8})

_NEARLY_LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95},
}

# What Pillow's readers raise on damaged files, besides their own errors.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture that was read completely, and what its file said of it."""

    image: Image.Image  # upright RGB, 8 bits a channel
    format: str  # of the file, one of FORMATS or MPO
    orientation: int  # that the file carried, 1..8
    unlike: str = ""  # why `Image.open(path).convert("RGB")` gives other pixels: the code of a fault; empty where not
    animated: bool = False  # more frames or pages follow
    cmyk: bool = False


def read_picture(source: Path | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "") -> Picture:
    """Read a picture completely, and turn it upright.

    Transparent parts become white, 16-bit grey is scaled down, of an animation the first frame is taken. `name` is
    what an error calls the picture (its path if not given). Raises `UnreadablePicture` where the picture is
    truncated, damaged, of no known format, or has more than `max_pixels` pixels.
    """
    with opened(source, max_pixels, name) as picture:
        picture.load()
        turn = orientation(picture)
        displayed = _as_rgb(picture)
        unlike = faults.TURNED.code if turn in _AS_DISPLAYED else _difference(picture, displayed)
        upright = displayed.transpose(_AS_DISPLAYED[turn]) if turn in _AS_DISPLAYED else displayed
        cmyk = picture.mode == "CMYK"
        return Picture(upright, picture.format or "", turn, unlike, _has_more(picture), cmyk)


def open_picture(source: Path | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "") -> Image.Image:
    """The picture as displayed: upright RGB, shape (height, width, 3), 8 bits a channel. Raises as `read_picture`."""
    return read_picture(source, max_pixels=max_pixels, name=name).image


def preview(source: Path | bytes, side: int, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "") -> Image.Image:
    """The picture as displayed, to be looked at: where it can be had sooner, with a longer side of `side` or more.

    Upright RGB, like `open_picture`, and raises as it does. A JPEG is decoded at a half, a quarter or an eighth.
    """
    with opened(source, max_pixels, name) as picture:
        scale = side / max(picture.size)
        if scale < 1:
            picture.draft(None, (ceil(picture.width * scale), ceil(picture.height * scale)))
        turn, displayed = orientation(picture), _as_rgb(picture)
        return displayed.transpose(_AS_DISPLAYED[turn]) if turn in _AS_DISPLAYED else displayed


def picture_size(source: Path | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "") -> tuple[int, int]:
    """(width, height) of the picture as displayed, in pixels, from its header and EXIF alone.

    A PNG is read to its end where no EXIF came early, since it may come last. Raises as `read_picture`, but most
    damage behind the header goes unnoticed.
    """
    with opened(source, max_pixels, name) as picture:
        turned = orientation(picture) in _ON_ITS_SIDE
        return (picture.height, picture.width) if turned else (picture.width, picture.height)


def write_upright(picture: Picture, path: Path) -> None:
    """Write a turned picture in the format it came in, without EXIF, as nearly lossless as that format allows."""
    file_format = "JPEG" if picture.format == "MPO" else picture.format
    picture.image.save(path, format=file_format, **_NEARLY_LOSSLESS.get(file_format, {}))


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or where the EXIF block is unreadable.

    A TIFF has none left: Pillow turns it while it reads, for us and for every trainer.
    """
    if picture.format == "TIFF":
        return 1
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        if picture.format == "PNG":
            raise  # a PNG is decoded to find its EXIF: what failed is the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextlib.contextmanager
def opened(source: Path | bytes, max_pixels: int, name: str) -> Iterator[Image.Image]:
    """The picture with only its header read; whatever goes wrong inside the block is told as `UnreadablePicture`."""
    name = name or ("the picture" if isinstance(source, bytes) else str(source))
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as picture:
            expect_few_pixels(picture.width, picture.height, max_pixels, name)
            yield picture
    except UnidentifiedImageError:
        raise _unreadable(name, "it is not a picture of a known format", f"known are {', '.join(FORMATS)}") from None
    except _DAMAGE as damage:
        raise damaged(name, damage) from damage


def expect_few_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    """Raises `UnreadablePicture` where there are more than that."""
    if width * height > max_pixels:
        what = f"it has {width} × {height} pixels, more than the limit of {max_pixels}"
        raise _unreadable(name, what, "scale it down")


def damaged(name: str, damage: BaseException) -> UnreadablePicture:
    """What went wrong while the picture was read, in words, for raising."""
    return _unreadable(name, f"it is damaged: {_words(damage)}", "replace the file")


def _unreadable(name: str, what: str, fix: str) -> UnreadablePicture:
    return UnreadablePicture("The picture cannot be read", [Complaint(name, what, fix)])


def _words(damage: BaseException) -> str:
    if isinstance(damage, OSError) and damage.strerror:
        return damage.strerror
    return str(damage) or type(damage).__name__


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    elif picture.mode in {"I", "F"}:
        picture = _scaled_to_grey(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB") if picture.mode != "RGB" else picture.copy()


def is_plain(picture: Image.Image) -> bool:
    """Whether every reader gets the same pixels from it: 8 bits and no transparency."""
    return picture.mode in _PLAIN_MODES and not picture.has_transparency_data


def _difference(picture: Image.Image, displayed: Image.Image) -> str:
    """Why trainers, who call no more than `convert("RGB")`, see other pixels than people; empty where not."""
    if is_plain(picture) or not ImageChops.difference(picture.convert("RGB"), displayed).getbbox():
        return ""
    if picture.has_transparency_data:
        return faults.TRANSPARENT.code
    return faults.SIXTEEN_BIT.code if picture.mode.startswith("I;16") else faults.WIDE_VALUES.code


def _has_more(picture: Image.Image) -> bool:
    if picture.format == "MPO":  # a second view or a small copy, which cameras append
        return False
    try:
        return bool(getattr(picture, "is_animated", False))
    except _DAMAGE:  # of what follows: the first picture was read
        return True


def _scaled_to_grey(picture: Image.Image) -> Image.Image:
    """Wide integers and floats have no agreed white: what exceeds a byte is stretched to its own range."""
    low, high = picture.convert("F").getextrema()
    if not isinstance(low, float) or not isinstance(high, float):
        raise TypeError(f"a picture of mode {picture.mode} has more than one band")
    if low >= 0 and high <= 255:
        return picture.convert("L")
    scale = 255 / (high - low) if high > low else 0.0
    return picture.convert("F").point(lambda value: value * scale - low * scale).convert("L")
