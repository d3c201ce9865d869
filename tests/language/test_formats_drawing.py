"""Boxes that people can see."""

import pytest
from PIL import Image, ImageChops

from vlyard.formats.box import Box
from vlyard.formats.drawing import colour_of, contact_sheet, draw_boxes

GREY = Image.new("RGB", (200, 100), (90, 90, 90))


def test_a_box_is_drawn_along_its_edges_in_its_label_s_colour() -> None:
    drawn = draw_boxes(GREY, [(Box.relative((0.25, 0.5, 0.75, 1)), "cat")])
    assert drawn.getpixel((50, 80)) == colour_of("cat")
    assert drawn.getpixel((149, 80)) == colour_of("cat")
    assert drawn.getpixel((100, 99)) == colour_of("cat")
    assert drawn.getpixel((120, 80)) == (90, 90, 90)
    assert drawn.getpixel((10, 80)) == (90, 90, 90)


def test_the_picture_itself_is_left_as_it_was() -> None:
    before = GREY.copy()
    draw_boxes(GREY, [(Box.relative((0, 0, 1, 1)), "cat")])
    assert ImageChops.difference(before, GREY).getbbox() is None


def test_labels_have_colours_of_their_own() -> None:
    assert len({colour_of(label) for label in ("cat", "dog", "bird", "car", "house")}) == 5


@pytest.mark.parametrize("label", ["猫", "кошка", "🐈‍⬛", "a\nb", "", "x" * 500, "\ud800", "שלום"])
def test_any_label_can_be_drawn_at_any_edge(label: str) -> None:
    for corners in ((0, 0, 1, 1), (0.99, 0.99, 1, 1), (0, 0, 0, 0), (-1, -1, 2, 2)):
        assert draw_boxes(GREY, [(Box.relative(corners), label)]).size == GREY.size


def test_a_label_stands_on_a_filled_strip_inside_the_picture() -> None:
    drawn = draw_boxes(GREY, [(Box.relative((0.5, 0.5, 0.9, 0.9)), "cat")])
    strip = drawn.crop((100, 34, 104, 40))
    assert colour_of("cat") in {pixel for _, pixel in strip.getcolors() or []}


def test_a_contact_sheet_has_a_place_for_each_picture() -> None:
    sheet = contact_sheet([(GREY, []), (GREY.rotate(90, expand=True), []), (GREY, [])], columns=2, cell=100)
    assert sheet.size == (2 * 108 + 8, 2 * 108 + 8)
    places = {(58, 58), (166, 58), (58, 166)}
    assert all(sheet.getpixel(place) == (90, 90, 90) for place in places)
    assert sheet.getpixel((166, 166)) != (90, 90, 90)


def test_a_contact_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
