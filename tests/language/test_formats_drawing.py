"""Boxes that people can see."""

import pytest
from PIL import Image, ImageChops

from vlyard.formats.box import Box
from vlyard.formats.drawing import colour_of, contact_sheet, draw_answer, draw_boxes, sheet_cell
from vlyard.jobs.inference import BoxFound, ElementFound, LineFound, PointFound

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
    pictures = GREY, GREY.rotate(90, expand=True), GREY
    sheet = contact_sheet([sheet_cell(each, [], cell=100) for each in pictures], columns=2, cell=100)
    assert sheet.size == (2 * 108 + 8, 2 * 108 + 8)
    places = {(58, 58), (166, 58), (58, 166)}
    assert all(sheet.getpixel(place) == (90, 90, 90) for place in places)
    assert sheet.getpixel((166, 166)) != (90, 90, 90)


def test_a_contact_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def painted(drawn: Image.Image) -> set[tuple[int, int]]:
    """The places that are not as grey as the picture was."""
    changed = ImageChops.difference(drawn, Image.new("RGB", drawn.size, (90, 90, 90))).convert("L")
    return {(at % drawn.width, at // drawn.width) for at, value in enumerate(changed.tobytes()) if value}


def test_a_point_is_a_dot_in_its_label_s_colour() -> None:
    drawn = draw_answer(GREY, [PointFound(label="cat", point_2d=(500, 900))])

    assert drawn.getpixel((100, 90)) == colour_of("cat")
    assert drawn.getpixel((100, 99)) == (90, 90, 90)


def test_everything_that_an_answer_found_is_drawn() -> None:
    corners = (250, 500, 750, 1000)
    box = Box.from_thousand(corners)

    for part, name in (
        (BoxFound(label="cat", bbox_2d=corners), "cat"),
        (LineFound(text="EXIT 5", bbox_2d=corners), "EXIT 5"),
        (ElementFound(tag="h2", text="A heading", bbox_2d=corners), "h2"),
    ):
        assert ImageChops.difference(draw_answer(GREY, [part]), draw_boxes(GREY, [(box, name)])).getbbox() is None
        assert draw_answer(GREY, [part]).getpixel((149, 80)) == colour_of(name)


@pytest.mark.parametrize("size", [(1, 1), (9, 9), (3, 400), (400, 3), (40, 40), (2_000, 1_500)])
def test_a_picture_of_any_size_keeps_its_size(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (90, 90, 90))

    drawn = draw_answer(
        picture,
        [
            PointFound(label="cat", point_2d=(1000, 0)),
            BoxFound(label="a long label, and more", bbox_2d=(1000, 1000, 1000, 1000)),
        ],
    )

    assert drawn.size == size
    assert painted(drawn)


def test_a_long_label_is_shortened_so_that_its_strip_ends_inside_the_picture() -> None:
    label = "WWW MMM that is far longer than the picture"

    drawn = draw_boxes(GREY, [(Box.relative((0, 0.9, 0.01, 1)), label)])

    last = drawn.crop((GREY.width - 3, 0, GREY.width, GREY.height)).getcolors() or []
    assert {colour for _, colour in last} <= {colour_of(label), (90, 90, 90)}  # no letter is cut by the edge
    assert max(x for x, _ in painted(drawn)) > GREY.width / 2


def test_letters_grow_with_the_picture() -> None:
    def strip(side: int) -> int:
        drawn = draw_answer(Image.new("RGB", (side, side), (90, 90, 90)), [PointFound(label="cat", point_2d=(500, 0))])
        return max(y for _, y in painted(drawn))

    assert strip(2_000) > 3 * strip(200)
