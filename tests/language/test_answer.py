import json
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlyard.formats.answer import AnswerObject, Flag, Note, parse_answer, write_answer
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


def cat(*flags: Flag, label: str = "cat") -> AnswerObject:
    return AnswerObject(label, CAT.box, flags)


@given(several)
def test_an_answer_that_was_written_comes_back_exactly(objects: list[tuple[str, Box]]) -> None:
    answer = parse_answer(write_answer(objects))

    assert [(each.label, each.box, each.flags) for each in answer.objects] == [(*pair, ()) for pair in objects]
    assert answer.notes == ()


@given(several)
def test_the_shape_of_the_tutorial_comes_back_exactly(objects: list[tuple[str, Box]]) -> None:
    entries = [{"class_id": 3, "bbox_2d": box.to_thousand(), "label": label} for label, box in objects]

    answer = parse_answer(json.dumps({"objects": entries}))

    assert [(each.label, each.box, each.flags) for each in answer.objects] == [(*pair, ()) for pair in objects]
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
    (NATIVE.replace("label", "text_content"), (cat(Flag.OTHER_LABEL_KEY),), ()),
    (NATIVE.replace("label", "category"), (cat(Flag.OTHER_LABEL_KEY),), ()),
    (NATIVE.replace("label", "name_zh"), (cat(Flag.OTHER_LABEL_KEY),), ()),
    ('[{"bbox_2d": [100, 200, 300, 400], "class_id": 7}]', (cat(Flag.OTHER_LABEL_KEY, label="7"),), ()),
    ('[{"colour": "black", "label": "cat", "bbox_2d": [100, 200, 300, 400]}]', (CAT,), ()),
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
    (NATIVE[:-2] + ', "mark": "\\u00', (cat(Flag.TRUNCATED),), (Note.TRUNCATED,)),
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
    text: str, objects: tuple[AnswerObject, ...], notes: tuple[Note, ...]
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

    assert [each.box.corners for each in answer.objects] == [(1, 2, 3, 4), (5, 6, 7, 8)]


def test_an_object_said_twice_is_flagged_the_second_time() -> None:
    answer = parse_answer(NATIVE[:-1] + ", " + NATIVE[1:])

    assert answer.objects == (CAT, cat(Flag.DUPLICATE))


def test_a_label_that_cannot_be_stored_is_made_storable() -> None:
    answer = parse_answer(r'[{"bbox_2d": [1, 2, 3, 4], "label": "a\u0000b\ud83dc"}]')

    assert answer.objects[0].label == "a\ufffdb?c"


@given(several.filter(bool), st.data())
def test_a_truncated_answer_keeps_all_objects_that_were_complete(
    objects: list[tuple[str, Box]], data: st.DataObject
) -> None:
    text = write_answer(objects)
    cut = data.draw(st.integers(1, len(text) - 1))
    complete = sum(len(write_answer(objects[:count])) - 1 <= cut for count in range(1, len(objects) + 1))

    answer = parse_answer(text[:cut])

    assert [(each.label, each.box) for each in answer.objects[:complete]] == objects[:complete]
    assert all(Flag.TRUNCATED in each.flags for each in answer.objects[complete:])
    assert Note.TRUNCATED in answer.notes


@given(several.filter(bool), st.sampled_from(["```json\n%s\n```", "Here:\n%s", "<think>hm</think>%s", "%s\nDone."]))
def test_what_stands_around_an_answer_does_not_change_it(objects: list[tuple[str, Box]], around: str) -> None:
    marked = any(word in label for label, _ in objects for word in ("think>", "<|box_start|>"))
    objects = [("plain", box) for _, box in objects[:1]] if marked else objects

    answer = parse_answer(around.replace("%s", write_answer(objects)))

    assert [(each.label, each.box, each.flags) for each in answer.objects] == [(*pair, ()) for pair in objects]


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
