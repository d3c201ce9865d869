"""A sheet of pictures with what is there in one colour and what was found in another. It knows no metric."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from PIL import Image, ImageDraw

from vlyard.formats.box import Box
from vlyard.formats.drawing import Colour, font_of, printable

TRUTH, FOUND = (40, 200, 80), (235, 60, 160)  # what is there, what was found
_COLUMNS, _CELL, _CAPTION, _GAP = 4, 320, 36, 10  # pixels, but for the columns
_GROUND, _INK = (32, 32, 32), (235, 235, 235)
_LETTERS = 12

Boxes = Sequence[tuple[Box, str]]


@dataclass(frozen=True)
class Exhibit:
    """One picture with its boxes and what is written below: two lines."""

    picture: Image.Image
    truth: Boxes
    found: Boxes
    caption: tuple[str, str]


def draw_gallery(exhibits: Iterable[Exhibit]) -> Image.Image:
    """All on one sheet, row by row; the legend is at the top. Raises `ValueError` where there is none."""
    cells = [_cell(each) for each in exhibits]
    if not cells:
        raise ValueError("a gallery needs at least one picture")
    columns = min(_COLUMNS, len(cells))
    across, down, head = _CELL + _GAP, _CELL + _CAPTION + _GAP, _LETTERS + 2 * _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, head + ceil(len(cells) / columns) * down), _GROUND)
    _legend(ImageDraw.Draw(sheet))
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        sheet.paste(cell, (_GAP + column * across, head + row * down))
    return sheet


def _cell(exhibit: Exhibit) -> Image.Image:
    cell = Image.new("RGB", (_CELL, _CELL + _CAPTION), _GROUND)
    scale = _CELL / max(exhibit.picture.size)
    size = max(1, round(exhibit.picture.width * scale)), max(1, round(exhibit.picture.height * scale))
    small = exhibit.picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(small)
    for boxes, colour, width in ((exhibit.truth, TRUTH, 4), (exhibit.found, FOUND, 2)):
        for place in boxes:
            _draw(pen, place, colour, width, size)
    cell.paste(small, ((_CELL - size[0]) // 2, (_CELL - size[1]) // 2))
    letters, below = font_of(_LETTERS), ImageDraw.Draw(cell)
    for number, line in enumerate(exhibit.caption):
        below.text((0, _CELL + 3 + number * (_LETTERS + 4)), printable(line, letters), font=letters, fill=_INK)
    return cell


def _draw(pen: ImageDraw.ImageDraw, place: tuple[Box, str], colour: Colour, width: int, size: tuple[int, int]) -> None:
    box, label = place
    left, top, right, bottom = box.clamped().pixels(*size)
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    pen.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=width)
    letters = font_of(_LETTERS)
    # The truth's labels are above their boxes, the found ones' below: both are read where boxes agree.
    y = top - _LETTERS - 2 if colour == TRUTH else bottom
    text = printable(label, letters)
    x = max(0.0, min(left, size[0] - letters.getlength(text)))
    y = max(0, min(y, size[1] - _LETTERS - 2))
    pen.rectangle((x, y, x + letters.getlength(text), y + _LETTERS + 2), fill=colour)
    pen.text((x, y), text, font=letters, fill="black")


def _legend(pen: ImageDraw.ImageDraw) -> None:
    letters = font_of(_LETTERS)
    pen.text((_GAP, _GAP - 2), "what is there", font=letters, fill=TRUTH)
    pen.text((_GAP + 100, _GAP - 2), "what was found", font=letters, fill=FOUND)
