"""Statistics that people can see."""

import pytest
from PIL import Image

from tests.language.test_statistics import random_records, record, tallied
from vlyard.formats.drawing import colour_of
from vlyard.formats.plots import Panel, panels, statistics_sheet
from vlyard.formats.record import Record
from vlyard.formats.statistics import EDGES, Tally


def of_classes(counts: dict[str, int]) -> list[Record]:
    return [record(*[(0, 0, 0.5, 0.5)] * count, label=label) for label, count in counts.items()]


def plot(title: str, records: list[Record]) -> Panel:
    return next(each for each in panels(tallied(records).as_json()) if each.title == title)


def test_everything_that_was_counted_has_a_plot() -> None:
    titles = [each.title for each in panels(tallied(random_records(300)).as_json())]

    assert len(titles) == len(set(titles)) == len(EDGES) + 4


def test_the_bars_of_a_plot_say_what_was_counted() -> None:
    shown = plot("Objects per class", of_classes({"dog": 2, "cat": 5}))

    assert [(row.label, row.shown) for row in shown.rows] == [("cat", "5"), ("dog", "2")]
    assert [shown.length(row) for row in shown.rows] == [1, 0.4]
    assert shown.rows[0].colour == colour_of("cat")


def test_of_many_classes_the_largest_are_shown_and_the_others_together() -> None:
    shown = plot("Objects per class", of_classes({f"class {number:02}": 40 - number for number in range(40)}))

    assert len(shown.rows) == 25
    assert [row.label for row in shown.rows[:2]] == ["class 00", "class 01"]
    assert (shown.rows[-1].label, shown.rows[-1].value) == ("16 others", sum(range(1, 17)))


def test_bars_are_logarithmic_where_the_largest_would_hide_the_others() -> None:
    shown = plot("Objects per class", of_classes({"common": 1000, "rare": 1}))

    assert shown.logarithmic
    assert shown.length(shown.rows[1]) > 0.05
    assert not plot("Objects per class", of_classes({"common": 50, "rare": 1})).logarithmic


@pytest.mark.parametrize("label", ["猫", "很长的类别名称" * 9, "שלום", "a\nb", "", "\ud800", "x" * 500, "🐈‍⬛"])
def test_any_label_can_be_drawn(label: str) -> None:
    assert statistics_sheet(tallied(of_classes({label: 3})).as_json()).width == 1400


def test_the_sheet_is_filled_with_bars_that_end_inside_it() -> None:
    sheet = statistics_sheet(tallied(random_records(300)).as_json())

    assert sheet.width == 1400
    assert 600 < sheet.height < 4000
    assert colour_of("cat") in {colour for _, colour in sheet.getcolors(100_000) or []}
    edges = [sheet.crop(box) for box in ((0, 0, 10, sheet.height), (1390, 0, 1400, sheet.height))]
    assert all(edge.getcolors() == [(10 * sheet.height, (255, 255, 255))] for edge in edges)


def test_a_set_of_nothing_has_a_sheet_too() -> None:
    assert isinstance(statistics_sheet(Tally().as_json()), Image.Image)
