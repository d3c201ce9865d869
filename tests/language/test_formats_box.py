"""A box means the same in every frame, and its integers are exact."""

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlyard.errors import InvalidInput
from vlyard.formats.box import Box, Frame

edges = st.floats(0, 1)
centres = st.tuples(edges, edges, st.floats(1e-6, 1), st.floats(1e-6, 1))


@pytest.mark.parametrize(
    ("value", "thousandth"),
    [(0.0005, 0), (0.0015, 2), (0.0025, 2), (0.1245, 124), (0.1255, 126), (0.4375, 438), (0.0625, 62), (0.9995, 1000)],
)
def test_a_half_is_rounded_to_the_even_thousandth(value: float, thousandth: int) -> None:
    assert value * 1000 % 1 == 0.5  # a tie in doubles, not nearly one
    assert Box.relative((value, value, 1, 1)).to_thousand() == (thousandth, thousandth, 1000, 1000)


@pytest.mark.parametrize(
    ("centre", "thousandths"),
    [
        ((0.5, 0.5, 1.0, 1.0), (0, 0, 1000, 1000)),
        ((0.498437, 0.479861, 0.117188, 0.168056), (440, 396, 557, 564)),
        ((0.0, 0.0, 0.5, 0.5), (0, 0, 250, 250)),  # clamped before it is rounded
        ((1.0, 1.0, 0.5, 0.5), (750, 750, 1000, 1000)),
    ],
)
def test_a_yolo_line_has_these_thousandths(
    centre: tuple[float, float, float, float], thousandths: tuple[int, int, int, int]
) -> None:
    assert Box.from_centre(*centre).to_thousand() == thousandths


@given(centres)
def test_thousandths_are_the_clamped_doubles_rounded_half_to_even(centre: tuple[float, float, float, float]) -> None:
    x, y, width, height = centre
    exact = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    products = [Decimal(min(max(edge, 0.0), 1.0) * 1000) for edge in exact]
    expected = tuple(int(product.quantize(Decimal(1), rounding=ROUND_HALF_EVEN)) for product in products)
    assert Box.from_centre(*centre).to_thousand() == expected


@given(centres)
def test_the_way_to_thousandths_and_back_moves_no_edge_by_more_than_half_a_thousandth(
    centre: tuple[float, float, float, float],
) -> None:
    box = Box.from_centre(*centre)
    back = Box.from_thousand(box.to_thousand()).to_relative()
    for edge, returned in zip(box.clamped().corners, back.corners, strict=True):
        assert abs(edge - returned) <= 0.0005 + 1e-12


@given(st.tuples(*[st.integers(0, 1000)] * 4))
def test_thousandths_come_back_unchanged_through_any_picture_size(values: tuple[int, int, int, int]) -> None:
    a, b, c, d = values
    corners = (min(a, c), min(b, d), max(a, c), max(b, d))
    box = Box.from_thousand(corners)
    for width, height in ((1, 1), (640, 480), (4032, 3024)):
        assert Box.from_pixels(box.pixels(width, height), width, height).to_thousand() == corners


def test_pixels_are_a_thousandth_of_the_size_times_the_value() -> None:
    assert Box.from_thousand((0, 250, 500, 1000)).pixels(640, 480) == (0.0, 120.0, 320.0, 480.0)


@given(centres, centres)
def test_iou_does_not_depend_on_the_frame_or_the_order(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> None:
    a, b = Box.from_centre(*first), Box.from_centre(*second)
    in_pixels = Box.from_pixels(b.pixels(640, 480), 640, 480)
    assert a.iou(b) == pytest.approx(b.iou(a))
    assert a.iou(in_pixels) == pytest.approx(a.iou(b), abs=1e-6)
    assert 0 <= a.iou(b) <= 1 + 1e-9


def test_iou_of_two_halves_that_share_a_quarter_is_a_third() -> None:
    left, middle = Box.relative((0, 0, 0.5, 1)), Box.relative((0.25, 0, 0.75, 1))
    assert left.iou(middle) == pytest.approx(1 / 3)
    assert left.iou(Box.relative((0.5, 0, 1, 1))) == 0
    assert Box.relative((0, 0, 0, 0)).iou(Box.relative((0, 0, 0, 0))) == 0


@pytest.mark.parametrize(
    "corners", [(0.6, 0, 0.5, 1), (0, 0.6, 1, 0.5), (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)]
)
def test_a_box_with_swapped_corners_or_without_finite_numbers_cannot_be_made(corners: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput):
        Box.relative(corners)


def test_a_box_in_pixels_cannot_be_made_without_the_picture_s_size() -> None:
    with pytest.raises(InvalidInput, match="size"):
        Box(0, 0, 10, 10, Frame.PIXELS)
    with pytest.raises(InvalidInput, match="size"):
        Box(0, 0, 1, 1, Frame.RELATIVE, (10, 10))
