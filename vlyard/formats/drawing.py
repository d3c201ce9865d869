"""Drawing boxes and points on pictures, for people to look at. It knows no label format and no model."""

import colorsys
import zlib
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from vlyard.formats.box import Box
from vlyard.jobs.inference import ElementFound, Found, LineFound, PointFound

Colour = tuple[int, int, int]
Point = tuple[float, float]  # x and y in 0..1000 of the displayed picture
CELL = 320  # the side of one picture on a contact sheet, in pixels
_GAP = 8
_BACKGROUND = (32, 32, 32)


def draw_answer(picture: Image.Image, objects: Sequence[Found]) -> Image.Image:
    """A copy of the picture, as RGB, with everything that an answer found in it; `objects` are those of this picture.

    A line of text stands with what it says, a part of a document with its tag.
    """
    return draw_boxes(picture, [_mark(each) for each in objects])


def _mark(each: Found) -> tuple[Box | Point, str]:
    if isinstance(each, PointFound):
        return each.point_2d, each.label
    box = Box.from_thousand(each.bbox_2d)
    if isinstance(each, LineFound):
        return box, each.text
    return box, each.tag if isinstance(each, ElementFound) else each.label


def draw_boxes(picture: Image.Image, boxes: Sequence[tuple[Box | Point, str]]) -> Image.Image:
    """A copy of the picture, as RGB, with every box or point in its label's colour and the label on a filled strip.

    A label has the same colour in every picture, and never leaves it: it is shortened where there is little room, and
    left out where there is none. Lines and letters grow with the picture.
    """
    drawn = picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
    pen = ImageDraw.Draw(drawn)
    line = max(2, round(min(drawn.size) / 240))
    places = [(_corner_pixels(place, drawn.size), isinstance(place, Box), label) for place, label in boxes]
    for corners, is_box, label in places:
        if is_box:
            pen.rectangle(corners, outline=colour_of(label), width=line)
        else:
            _draw_dot(pen, corners[:2], colour_of(label), line)
    for corners, _, label in places:  # after all frames, so that none crosses a label
        if label:
            _draw_label(pen, label, corners[:2], drawn.size)
    return drawn


def _corner_pixels(place: Box | Point, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The first and the last pixel of a place, inside the picture."""
    box = place if isinstance(place, Box) else Box.from_thousand((*place, *place))
    left, top, right, bottom = box.clamped().pixels(*size)
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return left, top, max(right - 1, left), max(bottom - 1, top)


def _draw_dot(pen: ImageDraw.ImageDraw, centre: tuple[float, float], colour: Colour, line: int) -> None:
    x, y = centre
    for radius, fill in ((2 * line, (255, 255, 255)), (1.5 * line, colour)):  # a white rim shows on any ground
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def sheet_cell(picture: Image.Image, boxes: Sequence[tuple[Box, str]], cell: int = CELL) -> Image.Image:
    """A picture with its boxes as a contact sheet has it: its longer side is `cell` pixels."""
    return draw_boxes(_fitted(picture, cell), boxes)


def contact_sheet(cells: Sequence[Image.Image], *, columns: int = 4, cell: int = CELL) -> Image.Image:
    """All cells on one sheet, row by row, each in a square of `cell` pixels.

    Raises `ValueError` where there is none.
    """
    if not cells:
        raise ValueError("a contact sheet needs at least one picture")
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    step = cell + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, rows * step + _GAP), _BACKGROUND)
    for place, small in enumerate(cells):
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


@lru_cache(maxsize=32)
def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font in so many pixels: to unpack it takes as long as to write ten labels."""
    return ImageFont.load_default(size=size)


def colour_of(label: str) -> Colour:
    """The label's own colour, 0..255 each: bright, and the same in every run."""
    mark = zlib.crc32(label.encode("utf-8", "replace"))
    hue = (mark & 0xFFFF) / 0x10000
    brightness = 0.85 + 0.15 * ((mark >> 16) & 0xFF) / 0xFF
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, brightness)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_label(pen: ImageDraw.ImageDraw, label: str, corner: tuple[float, float], size: tuple[int, int]) -> None:
    font = font_of(max(11, round(min(size) / 36)))
    text = _fitting(printable(label, font), font, size[0] - 7)
    if not text:
        return
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    if height >= size[1]:
        return
    # Above the box where there is room, else inside it, and never beyond the picture's edge.
    x = max(0.0, min(corner[0], size[0] - 1 - width))
    y = corner[1] - height if corner[1] >= height else max(0.0, min(corner[1], size[1] - 1 - height))
    red, green, blue = colour = colour_of(label)
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
    pen.text((x + 3 - left, y + 3 - top), text, font=font, fill=ink)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """As much of the text as has room; nothing where that is not even a letter."""
    if font.getlength(text) <= width:
        return text
    more = "…" if isinstance(font, ImageFont.FreeTypeFont) else "."  # Pillow's bitmap font knows no ellipsis
    cut = (text[:end].rstrip() + more for end in range(len(text) - 1, 0, -1))
    return next((each for each in cut if font.getlength(each) <= width), "")


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
