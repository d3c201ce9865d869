"""Drawing boxes on pictures, for people to look at. It knows no label format and no model."""

import colorsys
import zlib
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from vlyard.formats.box import Box

Colour = tuple[int, int, int]
_CELL = 320  # the side of one picture on a contact sheet, in pixels
_GAP = 8
_BACKGROUND = (32, 32, 32)


def draw_boxes(picture: Image.Image, boxes: Sequence[tuple[Box, str]]) -> Image.Image:
    """A copy of the picture, as RGB, with every box in its label's colour and the label on a filled strip.

    A label has the same colour in every picture. Lines and letters grow with the picture.
    """
    drawn = picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
    pen = ImageDraw.Draw(drawn)
    line = max(2, round(min(drawn.size) / 240))
    edges = [(box.clamped().pixels(*drawn.size), label) for box, label in boxes]
    for (left, top, right, bottom), label in edges:
        corners = (left, top, max(right - 1, left), max(bottom - 1, top))
        pen.rectangle(corners, outline=colour_of(label), width=line)
    for (left, top, _, _), label in edges:  # after all frames, so that none crosses a label
        if label:
            _draw_label(pen, label, (left, top), drawn.size)
    return drawn


def contact_sheet(
    samples: Sequence[tuple[Image.Image, Sequence[tuple[Box, str]]]], *, columns: int = 4, cell: int = _CELL
) -> Image.Image:
    """All samples with their boxes on one sheet, row by row, each in a square of `cell` pixels.

    Raises `ValueError` where there is no sample.
    """
    if not samples:
        raise ValueError("a contact sheet needs at least one sample")
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    step = cell + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, rows * step + _GAP), _BACKGROUND)
    for place, (picture, boxes) in enumerate(samples):
        small = draw_boxes(_fitted(picture, cell), boxes)
        row, column = divmod(place, columns)
        left = _GAP + column * step + (cell - small.width) // 2
        top = _GAP + row * step + (cell - small.height) // 2
        sheet.paste(small, (left, top))
    return sheet


def tiny(picture: Image.Image, boxes: Sequence[tuple[Box, str]], width: int, height: int) -> Image.Image:
    """The picture with its boxes within so many pixels, such as a terminal's: frames of one pixel, and no letters."""
    scale = min(width / picture.width, height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = picture.convert("RGB").resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(small)
    for box, label in boxes:
        left, top, right, bottom = box.clamped().pixels(*small.size)
        corners = min(left, size[0] - 1), min(top, size[1] - 1), max(right - 1, left), max(bottom - 1, top)
        pen.rectangle(tuple(map(int, corners)), outline=colour_of(label))
    return small


def colour_of(label: str) -> Colour:
    """The label's own colour, 0..255 each: bright, and the same in every run."""
    mark = zlib.crc32(label.encode("utf-8", "replace"))
    hue = (mark & 0xFFFF) / 0x10000
    brightness = 0.85 + 0.15 * ((mark >> 16) & 0xFF) / 0xFF
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, brightness)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_label(pen: ImageDraw.ImageDraw, label: str, corner: tuple[float, float], size: tuple[int, int]) -> None:
    font = ImageFont.load_default(size=max(11, round(min(size) / 36)))
    text = printable(label, font)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    # Above the box where there is room, else inside it, and never beyond the picture's edge.
    x = max(0.0, min(corner[0], size[0] - width))
    y = corner[1] - height if corner[1] >= height else max(0.0, min(corner[1], size[1] - height))
    red, green, blue = colour = colour_of(label)
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
    pen.text((x + 3 - left, y + 3 - top), text, font=font, fill=ink)


def printable(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The label as that font can draw it: one line of at most 40 letters."""
    text = " ".join(label.split())
    text = text if len(text) <= 40 else text[:39] + "…"
    if isinstance(font, ImageFont.FreeTypeFont):
        return text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate has no glyph and no bytes
    return text.encode("latin-1", "replace").decode("latin-1")  # Pillow's bitmap font knows no other letters


def _fitted(picture: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
