import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlyard.formats.answer import parse_answer
from vlyard.jobs.inference import BoxFound, ElementFound, LineFound, PictureSize, PointFound
from workers.found import found

WIDE, TALL = PictureSize(width=2000, height=500), PictureSize(width=100, height=400)
FORMS = [
    ('[{"bbox_2d": [-100, 200, 500, 1400], "label": "cat", "colour": "red"}]', BoxFound),
    ('[{"bbox_2d": [-100, 200, 500, 1400], "text_content": "EXIT", "colour": "red"}]', LineFound),
    ('<p colour="red" data-bbox="-100 200 500 1400">EXIT</p>', ElementFound),
]


@pytest.mark.parametrize(("text", "kind"), FORMS)
def test_a_box_is_cut_at_the_edges_and_told_in_pixels(
    text: str, kind: type[BoxFound | LineFound | ElementFound]
) -> None:
    made = found(parse_answer(text).objects[0], [WIDE])

    assert isinstance(made, kind)
    assert (made.bbox_2d, made.bbox_pixels) == ((0, 200, 500, 1000), (0, 100, 1000, 500))
    assert (made.picture, made.attributes) == (0, {"colour": "red"})
    assert {"over_1000", "below_0"} <= set(made.flags)


def test_a_point_is_cut_at_the_edges_and_told_in_pixels() -> None:
    made = found(parse_answer('[{"point_2d": [250, 1200], "label": "cat", "role": "eye"}]').objects[0], [WIDE])

    assert made == PointFound(
        label="cat",
        point_2d=(250, 1000),
        point_pixels=(500, 500),
        picture=0,
        attributes={"role": "eye"},
        flags=("over_1000",),
    )


@pytest.mark.parametrize(
    ("said", "shown", "picture", "flags"),
    [
        ("", [WIDE], 0, ()),
        (', "img_idx": 7', [WIDE], 0, ()),
        (', "img_idx": 1', [WIDE, TALL], 1, ()),
        ("", [WIDE, TALL], None, ()),
        (', "img_idx": 2', [WIDE, TALL], None, ("no_such_picture",)),
        (', "img_idx": 0', [], None, ("no_such_picture",)),
    ],
)
def test_an_object_is_in_the_only_picture_or_in_the_one_that_the_model_named(
    said: str, shown: list[PictureSize], picture: int | None, flags: tuple[str, ...]
) -> None:
    made = found(parse_answer('[{"bbox_2d": [0, 0, 500, 500], "label": "cat"' + said + "}]").objects[0], shown)

    assert isinstance(made, BoxFound)
    size = None if picture is None else shown[picture]
    assert (made.picture, made.flags) == (picture, flags)
    assert made.bbox_pixels == (None if size is None else (0, 0, size.width / 2, size.height / 2))


numbers = st.integers() | st.floats() | st.sampled_from(["12", "-3", "1e400", "x", None, True, 10**30])
values = st.recursive(
    numbers | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)
entries = st.dictionaries(st.sampled_from(["label", "text_content", "img_idx", "note", "\0\ud800"]), values)


@given(entries, st.lists(numbers, min_size=4, max_size=4), st.sampled_from(["bbox_2d", "point_2d"]), st.integers(0, 2))
def test_whatever_the_model_says_the_result_can_be_stored(
    entry: dict[str, object], place: list[object], key: str, pictures: int
) -> None:
    text = json.dumps([entry | {key: place if key == "bbox_2d" else place[:2]}])

    for each in parse_answer(text).objects:
        made = found(each, [WIDE, TALL][:pictures])

        stored = orjson.dumps(made.model_dump(mode="json"))
        assert b"\\u0000" not in stored
        told = made.point_2d if isinstance(made, PointFound) else made.bbox_2d
        assert all(0 <= value <= 1000 and math.isfinite(value) for value in told)
