"""Statistics as one picture: a sheet of bars, drawn with Pillow alone. It knows the shape of `statistics.json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

from PIL import Image, ImageDraw

from vlyard.formats.drawing import colour_of, font_of, printable

_WIDTH = 1400
_COLUMNS = 2
_MARGIN = 28
_PANEL = (_WIDTH - (_COLUMNS + 1) * _MARGIN) // _COLUMNS  # pixels
_ROW = 22  # pixels from bar to bar
_HEAD = 58  # of a panel, above its bars
_MOST_ROWS = 25
_PAPER, _INK, _FAINT, _BAR, _GRID = "white", (30, 30, 30), (130, 130, 130), (60, 110, 180), (228, 228, 228)

_TITLES: Mapping[str, str] = {
    "boxes_per_picture": "Boxes per picture",
    "box_side_pixels": "Box side in pixels (square root of the area)",
    "box_side_thousandths": "Box side in thousandths of the picture",
    "box_width_to_height": "Width to height of boxes",
    "picture_width_to_height": "Width to height of pictures",
    "picture_longer_side_pixels": "Longer side of pictures, in pixels",
    "picture_megapixels": "Megapixels of pictures",
    "answer_characters": "Characters of answers",
    "answer_tokens": "Tokens of answers",
}


@dataclass(frozen=True)
class _Row:
    label: str
    value: float
    shown: str
    colour: tuple[int, int, int] = _BAR


@dataclass(frozen=True)
class Panel:
    """One plot: rows of bars, from the top. Bars are logarithmic where the largest would hide the others."""

    title: str
    note: str
    rows: Sequence[_Row]
    scale: str = "counts"  # counts, or fractions: then a full bar is 1

    @property
    def logarithmic(self) -> bool:
        values = [row.value for row in self.rows if row.value]
        return self.scale == "counts" and len(values) > 1 and max(values) > 100 * min(values)

    def length(self, row: _Row) -> float:
        """How long the row's bar is, 0..1 of the longest."""
        if self.scale == "fractions":
            return row.value
        most = max((each.value for each in self.rows), default=0)
        if not row.value or not most:
            return 0.0
        return (log10(row.value) + 0.3) / (log10(most) + 0.3) if self.logarithmic else row.value / most


def panels(statistics: Mapping[str, Any]) -> Iterator[Panel]:
    """Every plot of the statistics, the most telling first; what was not counted has none."""
    yield from _classes(statistics)
    yield from _splits(statistics)
    for name, bars in statistics["histograms"].items():
        rows = [_Row(_span(bar, name), bar["count"], f"{bar['count']:,}") for bar in bars]
        yield Panel(_TITLES.get(name, name.replace("_", " ")), _note(name, statistics), rows)
    yield from _grid(statistics["grid"], statistics["boxes"])


def statistics_sheet(statistics: Mapping[str, Any]) -> Image.Image:
    """All plots on one sheet of 1400 pixels' width, in two columns; `statistics` is what `statistics.json` holds."""
    plots = list(panels(statistics))
    heights = [0] * _COLUMNS
    places = []
    for plot in plots:  # each goes where there is most room
        column = heights.index(min(heights))
        places.append((_MARGIN + column * (_PANEL + _MARGIN), heights[column]))
        heights[column] += _HEAD + _ROW * len(plot.rows) + _MARGIN
    top = 84
    sheet = Image.new("RGB", (_WIDTH, top + max(heights) + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    objects = statistics["boxes"] + statistics["points"]
    pen.text((_MARGIN, 22), f"{statistics['pictures']:,} pictures, {objects:,} objects", font=font_of(28), fill=_INK)
    said = f"{statistics['samples']:,} samples; {statistics['pictures_without_objects']:,} pictures without objects"
    pen.text((_MARGIN, 56), said, font=font_of(15), fill=_FAINT)
    for plot, (left, down) in zip(plots, places, strict=True):
        _draw(pen, plot, left, top + down)
    return sheet


# --- what each plot shows -------------------------------------------------------------------------------------


def _classes(statistics: Mapping[str, Any]) -> Iterator[Panel]:
    counted = list(statistics["boxes_per_class"].items())
    if not counted:
        return
    shown = counted if len(counted) <= _MOST_ROWS else counted[: _MOST_ROWS - 1]
    rows = [_Row(label, count, f"{count:,}", colour_of(label)) for label, count in shown]
    others = sum(count for _, count in counted[len(shown) :]) + statistics["boxes_of_further_classes"]
    if others:
        rows.append(_Row(f"{len(counted) - len(shown):,} others", others, f"{others:,}", _FAINT))
    yield Panel("Objects per class", f"{len(counted):,} classes", rows)


def _splits(statistics: Mapping[str, Any]) -> Iterator[Panel]:
    rows = [
        _Row(name, counts["pictures"], f"{counts['pictures']:,} with {counts['objects']:,} objects")
        for name, counts in statistics["splits"].items()
    ]
    if rows:
        yield Panel("Pictures per split", "", rows)


def _grid(grid: Mapping[str, Any], boxes: int) -> Iterator[Panel]:
    if not boxes:
        return
    names = {name: name.replace("_thousandths", "").replace("_", " ") for name in grid["by_side"]}
    rows = [
        _Row(names[name], each["mean_iou"], f"{each['mean_iou']:.3f}, least {each['least_iou']:.3f}")
        for name, each in grid["by_side"].items()
    ]
    note = f"mean IoU before and after, by side in thousandths; {grid['mean_iou']:.4f} for all"
    yield Panel("What the 0..1000 grid keeps of a box", note, rows, "fractions")
    under = grid["boxes_with_a_side_under_thousandths"]
    counted = [(f"side under {limit}", count) for limit, count in under.items()]
    counted.append(("no area left", grid["boxes_without_area_on_the_grid"]))
    rows = [_Row(label, count / boxes, f"{count:,} ({count / boxes:.1%})") for label, count in counted]
    yield Panel("Boxes that are thin on the grid", "share of all boxes, shorter side in thousandths", rows, "fractions")


def _note(name: str, statistics: Mapping[str, Any]) -> str:
    if name == "boxes_per_picture":
        return f"{statistics['most_boxes_of_a_picture']:,} at most"
    lengths, unit = statistics["answer_lengths"], name.removeprefix("answer_")
    if unit == name or f"mean_{unit}" not in lengths:
        return ""
    return f"{lengths[f'mean_{unit}']:,.0f} in the mean, {lengths[f'most_{unit}']:,} at most"


def _span(bar: Mapping[str, Any], name: str) -> str:
    low, high = bar["from"], bar["below"]
    if low is None:
        return "none" if high == 1 and name == "boxes_per_picture" else f"under {_number(high)}"
    if high is None:
        return f"{_number(low)} and more"
    if name == "boxes_per_picture" or name.startswith("answer_"):  # whole numbers
        return _number(low) if high - low == 1 else f"{_number(low)} to {_number(high - 1)}"
    return f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"


# --- drawing --------------------------------------------------------------------------------------------------


def _draw(pen: ImageDraw.ImageDraw, plot: Panel, left: int, top: int) -> None:
    note = ", ".join(filter(None, [plot.note, "logarithmic" if plot.logarithmic else ""]))
    pen.text((left, top), plot.title, font=font_of(18), fill=_INK)
    pen.text((left, top + 25), note, font=font_of(13), fill=_FAINT)
    letters = font_of(14)
    labels = [_fitting(row.label, 210) for row in plot.rows]
    begin = left + 12 + max((pen.textlength(label, font=letters) for label in labels), default=0)
    room = left + _PANEL - begin - 8 - max((pen.textlength(row.shown, font=letters) for row in plot.rows), default=0)
    for place, (row, label) in enumerate(zip(plot.rows, labels, strict=True)):
        y = top + _HEAD - 8 + place * _ROW
        pen.text((begin - 8, y + _ROW / 2 - 2), label, font=letters, fill=_INK, anchor="rm")
        end = begin + plot.length(row) * room
        pen.rectangle((begin, y + 2, begin + room, y + _ROW - 6), fill=_GRID)
        if row.value:
            pen.rectangle((begin, y + 2, max(end, begin + 1), y + _ROW - 6), fill=row.colour)
        pen.text((begin + room + 8, y + _ROW / 2 - 2), row.shown, font=letters, fill=_INK, anchor="lm")


def _fitting(label: str, width: int) -> str:
    letters = font_of(14)
    text = printable(label, letters)
    while text and letters.getlength(text) > width:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    return text
