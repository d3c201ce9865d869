"""Looking at a picture as closely as was asked for, and writing it anew where trainers would see another one.

It knows no labels. Of JPEG and PNG a header is read in microseconds; what a header cannot tell is decoded, so that
both ways of looking say the same of a sound picture.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vlyard.formats import faults
from vlyard.formats.header import read_header
from vlyard.formats.picture import (
    damaged,
    expect_few_pixels,
    is_plain,
    opened,
    orientation,
    read_picture,
    write_upright,
)
from vlyard.formats.record import Look

Check = Literal["decode", "header", "none"]

_UNSEEN = Look()
_ON_ITS_SIDE = 5  # orientations from here on exchange width and height
_FORMAT_OF: Mapping[str, str] = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".mpo": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP",
    ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pnm": "PPM", ".avif": "AVIF",
}  # fmt: skip


def look(path: str, check: Check, *, max_pixels: int, name: str) -> Look:
    """What the picture's file says of it; `name` is what an error calls it.

    `decode` reads every pixel. `header` reads the beginning and sees whether the file goes on to its end, but no
    damage between; it decodes what it must: GIF, PPM and AVIF, what may be transparent, 16 bits, and the unusual.
    `none` opens nothing. Raises `UnreadablePicture` where the file is no picture, damaged as far as was looked, or
    has more than `max_pixels` pixels.
    """
    if check == "none":
        return _UNSEEN
    seen = _glance(path, max_pixels, name) if check == "header" else None
    return seen or _study(path, max_pixels, name)


def rewritten(path: str, target: Path, look: Look) -> None:
    """Write the picture to `target` as every trainer shall see it: upright, white where it was transparent, 8 bits.

    It keeps its format, as nearly lossless as that allows: PNG, BMP, TIFF, PPM and WebP exactly; JPEG and AVIF at
    quality 95; GIF with its best 256 colours. Raises `UnreadablePicture` where the file is not what `look` saw.
    """
    write_upright(read_picture(Path(path), max_pixels=look.width * look.height), target)


def _study(path: str, max_pixels: int, name: str) -> Look:
    picture = read_picture(Path(path), max_pixels=max_pixels, name=name)
    remark = _remark(path, picture.format, animated=picture.animated, cmyk=picture.cmyk)
    return Look(picture.image.width, picture.image.height, picture.orientation, picture.unlike, remark)


def _glance(path: str, max_pixels: int, name: str) -> Look | None:
    """What the beginning and the end of the file say; None where that is not enough."""
    try:
        header = read_header(path)
    except (OSError, EOFError, ValueError) as damage:
        raise damaged(name, damage) from damage
    if header is None:
        return _glance_through_pillow(path, max_pixels, name)
    width, height, turn = header.width, header.height, header.orientation
    expect_few_pixels(width, height, max_pixels, name)
    remark = _remark(path, header.format, animated=False, cmyk=header.cmyk)
    if turn == 1:
        return Look(width, height, 1, "", remark)
    if turn >= _ON_ITS_SIDE:
        width, height = height, width
    return Look(width, height, turn, faults.TURNED.code, remark)


def _glance_through_pillow(path: str, max_pixels: int, name: str) -> Look | None:
    with opened(Path(path), max_pixels, name) as picture:
        end = _END.get(picture.format or "", _unknown)(picture) if is_plain(picture) else None
        if end is None:
            return None
        if end > Path(path).stat().st_size:
            raise EOFError("it is truncated")
        turn = orientation(picture)
        width, height = picture.size[::-1] if turn >= _ON_ITS_SIDE else picture.size
        animated = bool(getattr(picture, "is_animated", False))
        remark = _remark(path, picture.format or "", animated=animated, cmyk=picture.mode == "CMYK")
        return Look(width, height, turn, faults.TURNED.code if turn > 1 else "", remark)


def _remark(path: str, file_format: str, *, animated: bool, cmyk: bool) -> str:
    """The code of what is unusual; where several things are, of the one that surprises most."""
    if animated:
        return faults.ANIMATED.code
    if cmyk:
        return faults.CMYK.code
    expected = _FORMAT_OF.get(path[path.rfind(".") :].lower())
    found = "JPEG" if file_format == "MPO" else file_format
    return faults.WRONG_SUFFIX.code if expected and expected != found else ""


# --- where a file must end at the earliest, by format; None where its header does not say --------------------


def _unknown(_: Image.Image) -> int | None:
    return None


def _end_of_webp(picture: Image.Image) -> int | None:
    with Path(str(getattr(picture, "filename", ""))).open("rb") as file:
        return 8 + int.from_bytes(file.read(8)[4:], "little")


def _end_of_bmp(picture: Image.Image) -> int | None:
    tiles: list[Any] = getattr(picture, "tile", [])
    if len(tiles) != 1 or tiles[0][0] != "raw":
        return None
    _, _, offset, (_, stride, _) = tiles[0]
    return int(offset) + int(stride) * picture.height


def _end_of_tiff(picture: Image.Image) -> int | None:
    tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})
    for places, lengths in ((273, 279), (324, 325)):  # StripOffsets and StripByteCounts, TileOffsets and so on
        if tags.get(places) and len(tags.get(lengths, ())) == len(tags[places]):
            return max(int(place) + int(length) for place, length in zip(tags[places], tags[lengths], strict=True))
    return None


_END = {"WEBP": _end_of_webp, "BMP": _end_of_bmp, "TIFF": _end_of_tiff}
