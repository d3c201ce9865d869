"""Answers as a model gives them, and then mutilated: nothing raises, what was complete is found, mending is said."""

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlyard.formats.answer import Answer, AnswerElement, AnswerLine, AnswerObject, AnswerPoint, Flag, Note, parse_answer

words = st.text(st.characters(exclude_characters="\0<>&`|", exclude_categories=["Cs", "Cc", "Zs"]), min_size=1)
places = st.integers(0, 999)


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """An entry as the model writes them: a box, a point or a line of text, with or without attributes."""
    x1, x2 = sorted((draw(places), draw(places)))
    y1, y2 = sorted((draw(places), draw(places)))
    form = draw(st.sampled_from(["box", "line", "point"]))
    place: dict[str, Any] = {"point_2d": [x1, y1]} if form == "point" else {"bbox_2d": [x1, y1, x2, y2]}
    name = {"text_content" if form == "line" else "label": draw(words)}
    more = draw(st.dictionaries(st.sampled_from(["role", "colour", "age"]), words | st.integers(-9, 9), max_size=2))
    return place | name | more


def fenced(listed: list[dict[str, Any]]) -> str:
    """One object a line, after a tab, in a fence: the model's own habit."""
    lines = ",\n\t".join(json.dumps(entry, ensure_ascii=False) for entry in listed)
    return f"```json\n[\n\t{lines}\n]\n```"


lists = st.lists(entries(), min_size=1, max_size=6, unique_by=json.dumps)


def found(answer: Answer) -> list[tuple[Any, ...]]:
    """What each object says, without its flags."""
    return [_said(part) for part in answer.objects]


def _said(part: object) -> tuple[Any, ...]:
    match part:
        case AnswerPoint():
            return "point", part.label, (part.x, part.y), dict(part.attributes)
        case AnswerLine():
            return "line", part.text, part.box.corners, dict(part.attributes)
        case AnswerObject():
            return "box", part.label, part.box.corners, dict(part.attributes)
    raise AssertionError(part)


def written(listed: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The same of the entries themselves."""
    return [_entry(dict(entry)) for entry in listed]


def _entry(entry: dict[str, Any]) -> tuple[Any, ...]:
    if "point_2d" in entry:
        return "point", entry.pop("label"), tuple(entry.pop("point_2d")), entry
    form, key = ("line", "text_content") if "text_content" in entry else ("box", "label")
    return form, entry.pop(key), tuple(entry.pop("bbox_2d")), entry


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def is_storable(answer: Answer) -> bool:
    """It is JSON that a database takes: finite, without NUL and half characters."""
    json.dumps(asdict(answer), allow_nan=False)
    values = list(leaves(asdict(answer)))
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if isinstance(value, float)]
    return all("\0" not in text and text.encode() for text in texts if text) and all(map(math.isfinite, numbers))


@given(lists)
def test_an_answer_in_the_model_s_own_habit_is_read_exactly(listed: list[dict[str, Any]]) -> None:
    answer = parse_answer(fenced(listed))

    assert found(answer) == written(listed)
    assert answer.notes == (Note.FENCED,)
    assert not [flag for part in answer.objects for flag in part.flags if flag is not Flag.DUPLICATE]


@given(lists, st.data())
def test_a_cut_anywhere_keeps_what_was_complete_and_flags_the_rest(
    listed: list[dict[str, Any]], data: st.DataObject
) -> None:
    text = fenced(listed)
    cut = data.draw(st.integers(0, len(text) - 6))  # before the bracket that ends the list
    ends = [len(fenced(listed[:count])) - len("\n]\n```") for count in range(1, len(listed) + 1)]
    complete = sum(end <= cut for end in ends)

    answer = parse_answer(text[:cut])

    assert found(answer)[:complete] == written(listed[:complete])
    assert len(answer.objects) <= complete + 1
    assert all(Flag.TRUNCATED in part.flags for part in answer.objects[complete:])
    assert {Note.TRUNCATED, Note.NOTHING_FOUND} & set(answer.notes)


def _commas(text: str) -> str:
    return text.replace("}", ",}").replace("\n]", ",\n]")


def _capital(text: str) -> str:
    return "The picture shows these.\n" + text + "\nNothing else (I think)."


MENDINGS: list[tuple[Callable[[str], str], Note]] = [
    (_commas, Note.FENCED),
    (_capital, Note.PROSE),
    (lambda text: text.removesuffix("```"), Note.FENCED),
    (lambda text: text.removeprefix("```json"), Note.FENCED),
    (lambda text: f"<think>Are there [any]? {{perhaps}}</think>\n{text}", Note.THOUGHT),
]


@pytest.mark.parametrize(("mutilate", "note"), MENDINGS)
@given(listed=lists)
@settings(max_examples=25)
def test_what_stands_around_the_answer_changes_nothing_but_a_note(
    mutilate: Callable[[str], str], note: Note, listed: list[dict[str, Any]]
) -> None:
    listed = [entry for entry in listed if "}" not in json.dumps(entry)[:-1]]  # their own braces would be mutilated

    answer = parse_answer(mutilate(fenced(listed)))

    assert found(answer) == written(listed)
    assert note in answer.notes or not listed


@given(lists)
def test_swapped_corners_and_numbers_as_text_are_mended_and_flagged(listed: list[dict[str, Any]]) -> None:
    boxes = [entry for entry in listed if "bbox_2d" in entry and entry["bbox_2d"][0] < entry["bbox_2d"][2]]
    mutilated = [
        entry | {"bbox_2d": [str(entry["bbox_2d"][at]) for at in (2, 1, 0, 3)]} for entry in boxes
    ]  # left and right change places

    answer = parse_answer(fenced(mutilated))

    assert found(answer) == written(boxes)
    assert all({Flag.SWAPPED_CORNERS, Flag.NUMBERS_AS_TEXT} <= set(part.flags) for part in answer.objects)


@given(lists)
def test_another_key_is_understood_and_flagged(listed: list[dict[str, Any]]) -> None:
    renamed = {"bbox_2d": "bbox", "point_2d": "point"}

    answer = parse_answer(json.dumps([{renamed.get(key, key): each for key, each in one.items()} for one in listed]))

    assert found(answer) == written(listed)
    assert all(Flag.OTHER_BOX_KEY in part.flags for part in answer.objects)


ELEMENT = '<{tag} class="a" data-bbox="{at} 20 {to} 40">text {at}</{tag}>\n'


@given(st.lists(st.sampled_from(["h2", "p", "table", "div"]), min_size=1, max_size=8), st.data())
def test_a_document_that_is_cut_keeps_its_complete_elements(tags: list[str], data: st.DataObject) -> None:
    pieces = [ELEMENT.format(tag=tag, at=at, to=at + 10) for at, tag in enumerate(tags)]
    text = "".join(pieces)
    cut = data.draw(st.integers(0, len(text)))
    complete = sum(len("".join(pieces[: count + 1])) - 1 <= cut for count in range(len(pieces)))

    answer = parse_answer(text[:cut])

    elements = [part for part in answer.objects if isinstance(part, AnswerElement)]
    assert [(each.tag, each.text, each.box.x1) for each in elements[:complete]] == [
        (tag, f"text {at}", at) for at, tag in enumerate(tags[:complete])
    ]
    assert all(each.flags == () for each in elements[:complete])
    assert all(Flag.TRUNCATED in each.flags for each in elements[complete:])


legacy = st.lists(
    st.tuples(words.map(str.strip), st.lists(st.tuples(places, places, places, places), min_size=1, max_size=3)),
    min_size=1,
    max_size=4,
)


@given(legacy, st.data())
def test_an_answer_in_the_tokens_of_qwen2_vl_that_is_cut_keeps_its_complete_boxes(
    listed: list[tuple[str, list[tuple[int, int, int, int]]]], data: st.DataObject
) -> None:
    text, ends = "", []
    for label, boxes in listed:
        text += f"<|object_ref_start|>{label}<|object_ref_end|>"
        for x1, y1, x2, y2 in boxes:
            text += f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"
            ends.append(len(text))
    cut = data.draw(st.integers(0, len(text)))
    complete = sum(end <= cut for end in ends)
    expected: list[tuple[Any, ...]] = [
        ("box", label, (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), {})
        for label, boxes in listed
        for x1, y1, x2, y2 in boxes
    ]

    answer = parse_answer(text[:cut])

    assert found(answer) == expected[: len(answer.objects)]
    assert complete <= len(answer.objects) <= complete + 1
    assert [Flag.TRUNCATED in part.flags for part in answer.objects[:complete]] == [False] * complete
    assert all(Flag.TRUNCATED in part.flags for part in answer.objects[complete:])
    begun = text[:cut].count("<|box_start|>")
    assert (Note.LEGACY in answer.notes) is (begun > 0)
    assert (Note.TRUNCATED in answer.notes) is (begun > 0 and cut not in ends)
    assert begun == 0 or Note.PROSE not in answer.notes


# How the model speaks in Qwen's cookbooks (the first is an answer of its own, shortened), and what ends an object.
# https://github.com/QwenLM/Qwen3-VL/tree/main/cookbooks
SPOKEN = [
    (
        '```json\n[\n\t{"bbox_2d": [74, 361, 324, 808], "label": "plate/dish"},\n'
        '\t{"bbox_2d": [981, 444, 999, 557], "label": "bowl"}\n]\n```',
        "}",
    ),
    (
        '```json\n[\n\t{"bbox_2d": [74, 361, 324, 808], "name_zh": "盘子", "name_en": "plate"},\n'
        '\t{"bbox_2d": [981, 444, 999, 557], "name_zh": "碗", "name_en": "bowl"}\n]\n```',
        "}",
    ),
    (
        '```json\n[\n\t{"point_2d": [346, 328], "label": "person", "role": "player"},\n'
        '\t{"point_2d": [981, 444], "label": "person", "role": "keeper"}\n]\n```',
        "}",
    ),
    (
        '[\n\t{"bbox_2d": [74, 361, 324, 808], "text_content": "Open 9-5"},\n'
        '\t{"bbox_2d": [981, 444, 999, 557], "text_content": "{EXIT}"}\n]',
        '"}',
    ),
    ('[{"bbox_2d": [74, 361, 324, 808], "label": "the sign", "img_idx": 0}]', "}"),
    ('```json\n[\n\t{"time": 1.0, "bbox_2d": [74, 361, 324, 808], "label": "a dog"}\n]\n```', "}"),
    ('```json\n[\n\t{"bbox_3d": [0.1, 0.2, 2.5, 0.4, 0.5, 0.6, 0, 0.1, 0], "label": "chair"}\n]\n```', None),
    ('{"00:23.00 - 00:48.00": "trim the fat"}', None),
    (
        '```html\n<html><body><h2 data-bbox="74 36 324 80">Title</h2>'
        '<p data-bbox="74 361 999 808">A paragraph.</p></body></html>\n```',
        re.compile("</(?:h2|p)>"),
    ),
    ("# Title\n\nA paragraph.\n\n<!-- Image (74, 361, 324, 808) -->\n<!-- Image (81, 444, 999, 557) -->\n", "-->"),
]


@pytest.mark.parametrize(("text", "end"), SPOKEN, ids=[text[:40] for text, _ in SPOKEN])
def test_a_text_of_the_model_that_is_cut_at_any_place_loses_only_what_was_not_complete(
    text: str, end: str | re.Pattern[str] | None
) -> None:
    whole = parse_answer(text)
    ends = re.compile(end if isinstance(end, re.Pattern) else re.escape(end)) if end else None

    assert len(whole.objects) == (len(ends.findall(text)) if ends else 0)
    for cut in range(len(text)):
        answer = parse_answer(text[:cut])
        complete = len(ends.findall(text[:cut])) if ends else 0

        assert is_storable(answer)
        assert answer.objects[:complete] == whole.objects[:complete], text[:cut]
        assert all(Flag.TRUNCATED in part.flags for part in answer.objects[complete:]), text[:cut]


SPLINTERS = [
    "\0", "\ud83d", "\\u0000", "\\ud800", "NaN", "-Infinity", "1e999", "9" * 400, "[" * 50, '{"a":' * 50, "]", "}", '"',
    "'", "\\", "```", "<think>", "</think>", "<|box_start|>(1,2),(3,4)<|box_end|>", '<point x="1" y="2">',
    "<!-- Image (1,", '<p data-bbox="1 2 3 4">', "</p>", '{"count": 3}', "img_idx", ",", ":", "null", "x" * 3_000,
    "\u202e", "①",
]  # fmt: skip


texts = lists.map(fenced) | st.sampled_from([text for text, _ in SPOKEN])


@given(texts, st.lists(st.tuples(st.integers(0, 2_000), st.sampled_from(SPLINTERS)), min_size=1, max_size=8))
@settings(max_examples=300)
def test_whatever_is_driven_into_an_answer_it_is_read_and_can_be_stored(
    text: str, splinters: list[tuple[int, str]]
) -> None:
    for place, splinter in splinters:
        at = place % len(text)
        text = text[:at] + splinter + text[at:]

    answer = parse_answer(text)

    assert is_storable(answer)
    assert not (answer.objects and Note.NOTHING_FOUND in answer.notes)


def _seconds(text: str) -> float:
    best = math.inf
    for _ in range(3):
        begun = time.process_time()
        parse_answer(text)
        best = min(best, time.process_time() - begun)
    return best


UNITS = [
    *SPLINTERS[8:23],
    '{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, ',
    '{"bbox_2d": [1, 2, 3, 4], "label": "cat", "a": {"b": [',
    "<p ",
    '<p data-bbox="1 2 3 4"><b>',
    "<!-- Image (1, 2, 3, 4) -->\\begin{",
    '<points x1="1" y1="2" ',
    "<!--",
    "```json ",
    "\\\\",
    "three 3 ",
]


@pytest.mark.parametrize("unit", UNITS, ids=[unit[:24] for unit in UNITS])
def test_the_time_grows_as_the_text_does(unit: str) -> None:
    once = 40_000 // len(unit)

    short, long = _seconds(unit * once), _seconds(unit * once * 4)

    assert long < 10 * short + 0.05  # quadratic work would take 16 times as long


@pytest.mark.parametrize("number", ["1.5", "9999.0", "1e9", "-0.5", "NaN", "1e999", "true", "9" * 30])
def test_whatever_number_a_picture_has_it_costs_as_little_as_a_plain_one(number: str) -> None:
    entry = '{"bbox_2d": [1, 2, 3, 4], "label": "cat", "img_idx": '

    plain, other = (_seconds(f"[{', '.join([f'{entry}{each}}}'] * 1_000)}]") for each in ("1", number))

    assert other < 3 * plain + 0.05  # a search among all that a picture's number may be takes ten times as long
