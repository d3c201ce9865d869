"""What samples answer: the JSON that models are trained on, exact to the character."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.language.made_records import target, targets_anywhere
from vlyard.formats.answer import parse_answer, write_answer
from vlyard.formats.answering import PLACEHOLDERS, answer_text, thousandths
from vlyard.formats.box import Box
from vlyard.formats.record import Keypoint, Target
from vlyard.jobs.conversion import ConversionOptions

NATIVE = ConversionOptions()
OBJECTS = ConversionOptions(answer="objects")
POINTS = ConversionOptions(targets="points")


def test_the_native_answer_is_the_list_that_the_model_was_trained_on() -> None:
    answer = answer_text([target(), target("dog", (0, 0, 0.5, 1))], NATIVE)

    assert answer == (
        '[{"bbox_2d": [250, 250, 750, 750], "label": "cat"}, {"bbox_2d": [0, 0, 500, 1000], "label": "dog"}]'
    )


def test_no_objects_are_answered_by_an_empty_list() -> None:
    assert (answer_text([], NATIVE), answer_text([], OBJECTS)) == ("[]", '{"objects": []}')


@given(st.lists(targets_anywhere(), max_size=5))
def test_the_answer_is_what_json_writes_and_nobody_counts_a_label_as_a_picture(targets: list[Target]) -> None:
    answer = answer_text(targets, NATIVE)
    plain = write_answer((each.label, Box.from_thousand(thousandths(each.box))) for each in targets)

    assert json.loads(answer) == json.loads(plain)
    assert not any(placeholder in answer for placeholder in PLACEHOLDERS)
    if not any(placeholder in plain for placeholder in PLACEHOLDERS):
        assert answer == plain


@given(st.lists(targets_anywhere(), max_size=5))
def test_the_objects_shape_is_what_json_writes_and_keeps_class_ids(targets: list[Target]) -> None:
    entries = [
        {"class_id": each.class_id, "bbox_2d": list(thousandths(each.box)), "label": each.label} for each in targets
    ]
    answer = answer_text(targets, OBJECTS)

    assert json.loads(answer) == {"objects": entries}
    assert answer == json.dumps(json.loads(answer), ensure_ascii=False) or "\\u003c" in answer


@given(st.lists(targets_anywhere(), min_size=1, max_size=5), st.sampled_from([NATIVE, OBJECTS]))
def test_what_is_written_is_what_is_read(targets: list[Target], options: ConversionOptions) -> None:
    read = parse_answer(answer_text(targets, options)).boxed

    assert [each.box.to_thousand() for each in read] == [thousandths(each.box) for each in targets]
    for each in targets:
        x1, y1, x2, y2 = thousandths(each.box)
        assert (0 <= x1 < x2 <= 1000, 0 <= y1 < y2 <= 1000) == (True, True)
        exact = each.box.to_thousand()
        assert (x1 <= exact[0], y1 <= exact[1], x2 >= exact[2], y2 >= exact[3]) == (True,) * 4
        assert (exact[0] in {x1, x2}, x2 - x1 in {1, exact[2] - exact[0]}) == (True, True)
    assert [each.label for each in read] == [each.label.replace("\0", "\N{REPLACEMENT CHARACTER}") for each in targets]


@pytest.mark.parametrize(
    ("corners", "written"),
    [
        ((0.5002, 0.1, 0.5004, 0.3), [500, 100, 501, 300]),
        ((0.4996, 0.1, 0.4998, 0.3), [499, 100, 500, 300]),
        ((0.9997, 0.9996, 1, 1), [999, 999, 1000, 1000]),
        ((0, 0, 0.0004, 0.0004), [0, 0, 1, 1]),
    ],
)
def test_a_box_under_the_grid_is_answered_with_an_area_around_it(
    corners: tuple[float, float, float, float], written: list[int]
) -> None:
    assert json.loads(answer_text([target("cat", corners)], NATIVE)) == [{"bbox_2d": written, "label": "cat"}]


def test_points_are_the_visible_keypoints_with_their_names() -> None:
    keypoints = (Keypoint(0.1, 0.2, "nose"), Keypoint(0.3, 0.3, "tail", visible=False), Keypoint(0.5, 1.0))

    assert answer_text([target(keypoints=keypoints)], POINTS) == (
        '[{"point_2d": [100, 200], "label": "cat", "role": "nose"}, {"point_2d": [500, 1000], "label": "cat"}]'
    )


@pytest.mark.parametrize("keypoints", [(), (Keypoint(0.1, 0.2, "nose", visible=False),)])
def test_without_a_visible_keypoint_the_point_is_the_centre(keypoints: tuple[Keypoint, ...]) -> None:
    answer = answer_text([target("dog", (0.1, 0.2, 0.3, 0.6), keypoints=keypoints)], POINTS)

    assert answer == '[{"point_2d": [200, 400], "label": "dog"}]'


def test_points_have_an_objects_shape_too() -> None:
    options = ConversionOptions(targets="points", answer="objects")

    assert answer_text([target("dog")], options) == (
        '{"objects": [{"class_id": 1, "point_2d": [500, 500], "label": "dog"}]}'
    )


def test_attributes_stand_behind_the_label_as_they_are_asked_for() -> None:
    one = target(attributes={"occluded": True, "colour": 'da"rk <image>', "age": 3, "score": 0.5, "owner": None})
    some = ConversionOptions(attributes=("colour", "none such", "occluded"))
    entry = json.loads(answer_text([one], ConversionOptions(attributes=("*",))))[0]

    assert answer_text([one], some) == (
        '[{"bbox_2d": [250, 250, 750, 750], "label": "cat", "colour": "da\\"rk \\u003cimage>", "occluded": true}]'
    )
    assert list(entry) == ["bbox_2d", "label", "occluded", "colour", "age", "score", "owner"]
    assert [entry[name] for name in one.attributes] == list(one.attributes.values())


def test_no_attribute_takes_the_place_of_the_box_or_the_label() -> None:
    one = target(
        attributes={"label": "dog", "bbox_2d": "here", "class_id": 7, "role": "tail", "point_2d": 1, "kind": "x"}
    )

    assert answer_text([one], ConversionOptions(attributes=("*", "label"))) == (
        '[{"bbox_2d": [250, 250, 750, 750], "label": "cat", "kind": "x"}]'
    )


def test_an_attribute_that_json_has_no_word_for_is_null() -> None:
    answer = answer_text([target(attributes={"score": float("nan")})], ConversionOptions(attributes=("score",)))

    assert json.loads(answer)[0]["score"] is None
    assert "NaN" not in answer
