import json
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlyard.formats.answer import (
    AnswerElement,
    AnswerLine,
    AnswerObject,
    AnswerPart,
    AnswerPoint,
    Flag,
    Note,
    parse_answer,
    write_answer,
)
from vlyard.formats.box import Box

CAT = AnswerObject("cat", Box.from_thousand((100, 200, 300, 400)))
NATIVE = '[{"bbox_2d": [100, 200, 300, 400], "label": "cat"}]'

# NUL and half characters cannot be stored, so they do not come back.
labels = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
coordinates = st.integers(0, 1000)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, x2 = sorted((draw(coordinates), draw(coordinates)))
    y1, y2 = sorted((draw(coordinates), draw(coordinates)))
    return Box.from_thousand((x1, y1, x2, y2))


several = st.lists(st.tuples(labels, boxes()), max_size=6, unique=True)


def cat(*flags: Flag, label: str = "cat", **attributes: object) -> AnswerObject:
    return AnswerObject(label, CAT.box, flags, attributes)


@given(several)
def test_an_answer_that_was_written_comes_back_exactly(objects: list[tuple[str, Box]]) -> None:
    answer = parse_answer(write_answer(objects))

    assert [(each.label, each.box, each.flags) for each in answer.boxed] == [(*pair, ()) for pair in objects]
    assert answer.notes == ()


@given(several)
def test_the_shape_of_the_tutorial_comes_back_exactly(objects: list[tuple[str, Box]]) -> None:
    entries = [{"class_id": 3, "bbox_2d": box.to_thousand(), "label": label} for label, box in objects]

    answer = parse_answer(json.dumps({"objects": entries}))

    assert [(each.label, each.box, each.flags) for each in answer.boxed] == [(*pair, ()) for pair in objects]
    assert answer.notes == (Note.WRAPPED,)


# fmt: off
MENDINGS = [
    ("```json\n" + NATIVE + "\n```", (CAT,), (Note.FENCED,)),
    ("```\n" + NATIVE, (CAT,), (Note.FENCED,)),
    ("Here [as asked] it is: " + NATIVE + " Anything else?", (CAT,), (Note.PROSE,)),
    ("Sure:\n```json\n" + NATIVE + "\n```", (CAT,), (Note.FENCED, Note.PROSE)),
    ("<think>Is it [{\"bbox_2d\": [1, 2, 3, 4]}]?</think>\n" + NATIVE, (CAT,), (Note.THOUGHT,)),
    ("It is</think>" + NATIVE, (CAT,), (Note.THOUGHT,)),
    ("<think>It could be " + NATIVE, (), (Note.THOUGHT, Note.NOTHING_FOUND)),
    (NATIVE[1:-1], (CAT,), (Note.SINGLE_OBJECT,)),
    (NATIVE[1:-1] + "\n" + NATIVE[1:-1], (CAT, cat(Flag.DUPLICATE)), (Note.SINGLE_OBJECT,)),
    (NATIVE.replace('"', "'"), (CAT,), ()),
    (NATIVE.replace("}]", "},]"), (CAT,), ()),
    (NATIVE.replace("label", "name"), (cat(Flag.OTHER_LABEL_KEY),), ()),
    (NATIVE.replace("label", "text_content"), (AnswerLine("cat", CAT.box),), ()),
    (NATIVE.replace("label", "category"), (cat(Flag.OTHER_LABEL_KEY),), ()),
    (NATIVE.replace("label", "name_zh"), (cat(Flag.OTHER_LABEL_KEY),), ()),
    ('[{"bbox_2d": [100, 200, 300, 400], "class_id": 7}]', (cat(Flag.OTHER_LABEL_KEY, label="7"),), ()),
    ('[{"colour": "black", "label": "cat", "bbox_2d": [100, 200, 300, 400]}]', (cat(colour="black"),), ()),
    ('[{"bbox_2d": [100, 200, 300, 400]}]', (cat(Flag.NO_LABEL, label=""),), ()),
    (NATIVE.replace("bbox_2d", "bbox"), (cat(Flag.OTHER_BOX_KEY),), ()),
    (NATIVE.replace("100, 200, 300, 400", '"100", "200", "300", "400"'), (cat(Flag.NUMBERS_AS_TEXT),), ()),
    (NATIVE.replace("[100, 200, 300, 400]", '"100 200 300 400"'), (cat(Flag.NUMBERS_AS_TEXT),), ()),
    (NATIVE.replace("100, 200, 300, 400", "[100, 200], [300, 400]"), (CAT,), ()),
    (NATIVE.replace("100, 200, 300, 400", "300, 400, 100, 200"), (cat(Flag.SWAPPED_CORNERS),), ()),
    (NATIVE.replace("100, 200, 300, 400", "300, 200, 100, 400"), (cat(Flag.SWAPPED_CORNERS),), ()),
    ("[]", (), ()),
    ("I see nothing of the kind: []", (), (Note.PROSE,)),
    ('{"objects": []}', (), (Note.WRAPPED,)),
    ("A cat sits on a mat.", (), (Note.NOTHING_FOUND,)),
    ("", (), (Note.NOTHING_FOUND,)),
    ("[", (), (Note.TRUNCATED, Note.NOTHING_FOUND)),
    ('[{"label": "cat"}, ' + NATIVE[1:], (CAT,), (Note.ENTRY_WITHOUT_BOX,)),
    ('[{"bbox_2d": [1, 2, 3], "label": "dog"}, ' + NATIVE[1:], (CAT,), (Note.ENTRY_WITHOUT_BOX,)),
    ('[{"bbox_2d": [1, NaN, 3, 1e999], "label": "dog"}, ' + NATIVE[1:], (CAT,), (Note.ENTRY_WITHOUT_BOX,)),
    (NATIVE[:-1], (CAT,), (Note.TRUNCATED,)),
    (NATIVE[:-2], (cat(Flag.TRUNCATED),), (Note.TRUNCATED,)),
    (NATIVE[:-4], (cat(Flag.TRUNCATED, label="ca"),), (Note.TRUNCATED,)),
    (NATIVE[:-12], (cat(Flag.NO_LABEL, Flag.TRUNCATED, label=""),), (Note.TRUNCATED,)),
    (NATIVE[:-2] + ', "mark": "\\u00', (cat(Flag.TRUNCATED, mark=""),), (Note.TRUNCATED,)),
    (NATIVE[:30], (), (Note.TRUNCATED, Note.NOTHING_FOUND)),
    ("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>", (CAT,), (Note.LEGACY,)),
    ("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,200),(300,400)",
     (cat(Flag.TRUNCATED),), (Note.LEGACY, Note.TRUNCATED)),
    ("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,200),(30",
     (), (Note.LEGACY, Note.TRUNCATED, Note.NOTHING_FOUND)),
    ("A <|object_ref_start|>cat<|object_ref_end|><|box_start|>(300,200),(100,400)<|box_end|> it is",
     (cat(Flag.SWAPPED_CORNERS),), (Note.LEGACY, Note.PROSE)),
]
# fmt: on


@pytest.mark.parametrize(("text", "objects", "notes"), MENDINGS, ids=[text[:60] for text, _, _ in MENDINGS])
def test_an_unusual_answer_is_understood_and_what_was_done_is_said(
    text: str, objects: tuple[AnswerPart, ...], notes: tuple[Note, ...]
) -> None:
    answer = parse_answer(text)

    assert (answer.objects, answer.notes) == (objects, notes)


def test_coordinates_outside_the_picture_are_kept_and_flagged() -> None:
    answer = parse_answer('[{"bbox_2d": [-5, 20, 1920, 1080], "label": "cat"}]')

    assert answer.objects == (
        AnswerObject("cat", Box.from_thousand((-5, 20, 1920, 1080)), (Flag.OVER_1000, Flag.BELOW_0)),
    )


def test_several_boxes_of_one_label_are_several_objects() -> None:
    answer = parse_answer('[{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "cat"}]')

    assert [each.box.corners for each in answer.boxed] == [(1, 2, 3, 4), (5, 6, 7, 8)]


def test_an_object_said_twice_is_flagged_the_second_time() -> None:
    answer = parse_answer(NATIVE[:-1] + ", " + NATIVE[1:])

    assert answer.objects == (CAT, cat(Flag.DUPLICATE))


def test_a_label_that_cannot_be_stored_is_made_storable() -> None:
    answer = parse_answer(r'[{"bbox_2d": [1, 2, 3, 4], "label": "a\u0000b\ud83dc"}]')

    assert answer.boxed[0].label == "a\ufffdb?c"


@given(several.filter(bool), st.data())
def test_a_truncated_answer_keeps_all_objects_that_were_complete(
    objects: list[tuple[str, Box]], data: st.DataObject
) -> None:
    text = write_answer(objects)
    cut = data.draw(st.integers(1, len(text) - 1))
    complete = sum(len(write_answer(objects[:count])) - 1 <= cut for count in range(1, len(objects) + 1))

    answer = parse_answer(text[:cut])

    assert [(each.label, each.box) for each in answer.boxed[:complete]] == objects[:complete]
    assert all(Flag.TRUNCATED in each.flags for each in answer.objects[complete:])
    assert Note.TRUNCATED in answer.notes


@given(several.filter(bool), st.sampled_from(["```json\n%s\n```", "Here:\n%s", "<think>hm</think>%s", "%s\nDone."]))
def test_what_stands_around_an_answer_does_not_change_it(objects: list[tuple[str, Box]], around: str) -> None:
    marked = any(word in label for label, _ in objects for word in ("think>", "<|box_start|>"))
    objects = [("plain", box) for _, box in objects[:1]] if marked else objects

    answer = parse_answer(around.replace("%s", write_answer(objects)))

    assert [(each.label, each.box, each.flags) for each in answer.boxed] == [(*pair, ()) for pair in objects]


@given(several, st.randoms(use_true_random=False))
def test_a_shuffled_and_spliced_answer_never_raises(objects: list[tuple[str, Box]], rng: random.Random) -> None:
    text = write_answer(objects) + "<|box_start|>(1,2),(3,4)<|box_end|></think>```\\"
    marks = sorted(rng.randrange(len(text)) for _ in range(6))
    pieces = [text[begin:end] for begin, end in pairwise([0, *marks, len(text)])]
    rng.shuffle(pieces)

    parse_answer("".join(pieces))


@given(st.text() | st.text(st.sampled_from("[]{}\",:'\\ 0123456789.-eulbox_2dtrn")))
@settings(max_examples=300)
def test_no_text_makes_the_parser_raise(text: str) -> None:
    answer = parse_answer(text)

    assert not (answer.objects and Note.NOTHING_FOUND in answer.notes)


@pytest.mark.parametrize(
    "unit", ["[", "{", '{"a":', '[{"bbox_2d":[', '"', "\\", '["', "<|box_start|>", "<think>", "'", "{'a':["]
)
def test_a_long_and_senseless_answer_takes_little_time(unit: str) -> None:
    parse_answer(unit * 20_000)  # the suite's time limit is the judge: quadratic work would take minutes


def test_a_number_of_any_length_is_no_reason_to_fail() -> None:
    long = "9" * 5_000

    answer = parse_answer(f'[{{"bbox_2d": [1, 2, 3, {long}], "label": {long}}}]')

    assert answer.objects == ()
    assert answer.notes == (Note.ENTRY_WITHOUT_BOX, Note.NOTHING_FOUND)


@pytest.mark.parametrize(
    ("said", "picture"),
    [
        ("0", 0), ("1", 1), ("1.0", 1), ("9999", 9_999), ("10000", None), ("9999.5", None), ("-1", None), ("-0.0", 0),
        ("true", None), ("NaN", None), ("Infinity", None), ("1e400", None), ("9" * 400, None), ('"1"', None),
        ("[1]", None),
    ],
)  # fmt: skip
def test_a_pictures_number_is_a_whole_one_that_a_question_may_have(said: str, picture: int | None) -> None:
    [part] = parse_answer(f'[{{"bbox_2d": [1, 2, 3, 4], "label": "cat", "img_idx": {said}}}]').objects

    assert part.picture == picture
    assert ("img_idx" in part.attributes) is (picture is None)


def box(*corners: float) -> Box:
    return Box.from_thousand(corners)


# fmt: off
FORMS = [
    ('[{"point_2d": [10, 20], "label": "cat", "role": "left eye", "img_idx": 1}]',
     (AnswerPoint("cat", 10, 20, (), {"role": "left eye"}, 1),), ()),
    ('[{"point": "10, 1020", "label": "cat"}]',
     (AnswerPoint("cat", 10, 1020, (Flag.OTHER_BOX_KEY, Flag.NUMBERS_AS_TEXT, Flag.OVER_1000)),), ()),
    ('[{"point_2d": [[1, 2], [3, 4]], "label": "a"}]', (AnswerPoint("a", 1, 2), AnswerPoint("a", 3, 4)), ()),
    ('[{"point_2d": [1, 2], "label": "a"}, {"point_2d": [1, 2], "label": "a"}]',
     (AnswerPoint("a", 1, 2), AnswerPoint("a", 1, 2, (Flag.DUPLICATE,))), ()),
    ('[{"bbox_2d": null, "point_2d": [1, 2], "label": "a"}]', (AnswerPoint("a", 1, 2, (), {"bbox_2d": None}),), ()),
    ('[{"point_2d": [1, 2], "label": "a"}, {"point_2d": [3, 4], "la',
     (AnswerPoint("a", 1, 2), AnswerPoint("", 3, 4, (Flag.NO_LABEL, Flag.TRUNCATED))), (Note.TRUNCATED,)),
    ('[{"point_2d": [1, 2, 3], "label": "a"}]', (), (Note.ENTRY_WITHOUT_BOX, Note.NOTHING_FOUND)),
    ('<point x="1.5" y="-2" alt="it">the  cat</point>',
     (AnswerPoint("the cat", 1.5, -2, (Flag.BELOW_0,), {"alt": "it"}),), ()),
    ('Here: <points x1="1" y1="2" x2="3" y2="4" alt="cats"></points>',
     (AnswerPoint("cats", 1, 2, (Flag.OTHER_LABEL_KEY,)), AnswerPoint("cats", 3, 4, (Flag.OTHER_LABEL_KEY,))),
     (Note.PROSE,)),
    ('<point x="1" y="2" alt="a"/><point x="3" y="4">ca',
     (AnswerPoint("a", 1, 2, (Flag.OTHER_LABEL_KEY,)), AnswerPoint("ca", 3, 4, (Flag.TRUNCATED,))), (Note.TRUNCATED,)),
    ('<point x="one" y="2">a</point>', (), (Note.ENTRY_WITHOUT_BOX, Note.NOTHING_FOUND)),
    ('```json\n[\n\t{"bbox_2d": [3, 4, 1, 2], "text_content": "EXIT 5", "label": "sign"}\n]\n```',
     (AnswerLine("EXIT 5", box(1, 2, 3, 4), (Flag.SWAPPED_CORNERS,), {"label": "sign"}),), (Note.FENCED,)),
    ('[{"bbox_2d": [1, 2, 3, 4], "label": "car", "colour": "red", "age": 3, "img_idx": 2, "parts": '
     '[{"bbox_2d": [1, 2, 2, 3], "label": "wheel"}]}]',
     (AnswerObject("car", box(1, 2, 3, 4), (), {"colour": "red", "age": 3}, 2),
      AnswerObject("wheel", box(1, 2, 2, 3))), ()),
    ('[{"bbox_2d": [1, 2, 3, 4], "label": "a", "image": "left"}]',
     (AnswerObject("a", box(1, 2, 3, 4), (), {"image": "left"}),), ()),
    ('[{"bbox_2d": [1, 2, 3, 4], "label": "a", "odds": NaN, "far": [[[[9]]]]}]',
     (AnswerObject("a", box(1, 2, 3, 4), (Flag.SHORTENED,), {"odds": None, "far": [[[None]]]}),), ()),
    ('<html><body><h2 class="big" data-bbox="1 2 3 4">A &lt;<b>b</b>c</h2><!-- no --><br><div data-bbox=\'5 6 7 8\'>'
     '<img data-bbox="5 6 7 7"/>below</div></body></html>',
     (AnswerElement("h2", "A <bc", box(1, 2, 3, 4), (), {"class": "big"}),
      AnswerElement("div", "below", box(5, 6, 7, 8)), AnswerElement("img", "", box(5, 6, 7, 7))), ()),
    ('```html\n<table data-bbox="1 2 3 4"><tr><td>a</td><td>b</td></tr></table><p data-bbox="9 8 7 1002">cu',
     (AnswerElement("table", "a b", box(1, 2, 3, 4)),
      AnswerElement("p", "cu", box(7, 8, 9, 1002), (Flag.TRUNCATED, Flag.SWAPPED_CORNERS, Flag.OVER_1000))),
     (Note.FENCED, Note.TRUNCATED)),
    ('<p data-bbox="1 2 3">a</p>', (), (Note.ENTRY_WITHOUT_BOX, Note.NOTHING_FOUND)),
    ('# Title\n<!-- Image (1, 2, 3, 4) -->\n\n<!-- Table (5, 6, 7, 8) -->\n\\begin{tabular}{c}a\\end{tabular}\n<!-- Ta',
     (AnswerElement("image", "", box(1, 2, 3, 4)),
      AnswerElement("table", "\\begin{tabular}{c}a\\end{tabular}", box(5, 6, 7, 8))), (Note.TRUNCATED,)),
    ('<!-- Table (5, 6, 7, 8) -->\n\\begin{tabular}{c}a',
     (AnswerElement("table", "\\begin{tabular}{c}a", box(5, 6, 7, 8), (Flag.TRUNCATED,)),), (Note.TRUNCATED,)),
]
# fmt: on


@pytest.mark.parametrize(("text", "objects", "notes"), FORMS, ids=[text[:60] for text, _, _ in FORMS])
def test_every_form_is_read_as_what_it_is(text: str, objects: tuple[AnswerPart, ...], notes: tuple[Note, ...]) -> None:
    answer = parse_answer(text)

    assert (answer.objects, answer.notes) == (objects, notes)


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>It is\nthat.</think>" + NATIVE, "It is\nthat."),
        ("It is that.</think>" + NATIVE, "It is that."),
        ("<think>It is", "It is"),
        ("<think>one</think><think>two</think>" + NATIVE, "one\ntwo"),
        (NATIVE.replace("cat", "<think>"), ""),
    ],
)
def test_what_was_thought_is_kept_apart(text: str, thought: str) -> None:
    assert parse_answer(text).thought == thought


def test_a_list_after_a_thought_is_read_as_if_nothing_had_been_thought() -> None:
    answer = parse_answer("<think>[1]</think>\n" + NATIVE)

    assert (answer.objects, answer.notes) == ((CAT,), (Note.THOUGHT,))


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("3", 3),
        (" **12**. ", 12),
        ("three", 3),
        ("\\boxed{4}", 4),
        ('{"count": 0}', 0),
        ('[{"count": "5"}]', 5),
        ('```json\n{"count": 3}\n```', 3),
        ('{"count": 1, "objects": ' + NATIVE + "}", 1),
        ("There are 3 cats.", 3),
        ("There is no cat.", 0),
        ("I see two cats", 2),
        ("The total number of cats is 4.", 4),
        ("7 cats", 7),
        ("图中有3只猫。", 3),
        ("图中共有三只猫。", 3),
        ("<think>2 or 3</think>3", 3),
        ("There are 3 cats and 2 dogs.", None),
        ("There are 3 cats and two dogs.", None),
        ("有3只猫和两只狗", None),
        ('{"count": 3, "total": 4}', None),
        ('{"count": 2.5}', None),
        ('{"count": true}', None),
        ("The shirt says 23.", None),
        ("It is 5:30.", None),
        ("A 3.5 t truck", None),
        ("a cat", None),
        ("", None),
        (NATIVE, None),
        (NATIVE.replace("label", "count"), None),
        (NATIVE.replace("}", ', "count": 3}'), None),
        ('<point x="3" y="3">3</point>', None),
    ],
)
def test_a_number_is_counted_where_it_can_mean_nothing_else(text: str, counted: int | None) -> None:
    assert parse_answer(text).counted == counted


def test_several_objects_beyond_the_range_are_suspected_to_be_in_pixels() -> None:
    beyond = [f'{{"bbox_2d": [{x}, 2, 1920, 1080], "label": "cat"}}' for x in (1, 2)]

    assert Note.MAYBE_PIXELS in parse_answer(f"[{','.join(beyond)}]").notes
    assert Note.MAYBE_PIXELS not in parse_answer(f"[{beyond[0]}]").notes


def test_attributes_without_end_are_cut_and_flagged() -> None:
    endless = {"bbox_2d": [1, 2, 3, 4], "label": "a", "list": list(range(5_000)), "text": "x" * 5_000}

    (found,) = parse_answer(json.dumps([endless | {str(key): key for key in range(5_000)}])).objects

    assert found.flags == (Flag.SHORTENED,)
    assert len(json.dumps(found.attributes)) < 10_000


def test_the_text_of_an_element_is_cut_and_flagged() -> None:
    (found,) = parse_answer('<p data-bbox="1 2 3 4">' + "word " * 10_000 + "</p>").boxed

    assert (len(found.text), found.flags) == (20_000, (Flag.SHORTENED,)) if isinstance(found, AnswerElement) else False
