"""What is asked about a picture: in which words, for which objects, in which order, and in how many parts."""

import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.language.made_records import CLASSES, grid, record, target, targets_anywhere
from vlyard.errors import InvalidInput
from vlyard.formats.answering import PLACEHOLDERS, answer_text
from vlyard.formats.asking import Asker
from vlyard.formats.classes import Classes
from vlyard.formats.counting import count_tokens
from vlyard.formats.ordering import by_position, shuffled
from vlyard.formats.prompts import OWN
from vlyard.formats.reading import Refused
from vlyard.formats.record import Question, Record, Target
from vlyard.jobs.conversion import DEFAULT_PROMPT, ConversionOptions

TOKENIZER = Path(__file__).parents[2] / "workers" / "qwen" / "demo_model" / "tokenizer.json"
CAT, DOG = target("cat"), target("dog", (0, 0, 0.1, 0.1))
WORDINGS: Any = OWN  # by languages that are parameters of tests
PICTURES = [record(CAT, DOG, name=f"{number}.jpg") for number in range(60)]


def asked(about: Record, classes: Classes = CLASSES, tokenizer: Path | None = None, **options: Any) -> list[Question]:
    return list(Asker(ConversionOptions.model_validate(options), classes, tokenizer).questions(about))


def prompts(about: Record, classes: Classes = CLASSES, **options: Any) -> list[str]:
    return [question.prompt for question in asked(about, classes, **options)]


# --- wordings -------------------------------------------------------------------------------------------------


def test_every_picture_is_asked_about_once_in_the_default_words_and_order() -> None:
    assert all(asked(each) == [Question(DEFAULT_PROMPT, (CAT, DOG), "")] for each in PICTURES)


def test_a_picture_without_objects_is_asked_about_too() -> None:
    assert asked(record()) == [Question(DEFAULT_PROMPT, (), "")]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_one_question_is_in_the_first_words_of_its_language(language: str) -> None:
    words = WORDINGS["all", "boxes"][language][0]

    assert {prompt for each in PICTURES for prompt in prompts(each, language=language)} == {words}


def test_both_languages_are_mixed_by_seed() -> None:
    first = {WORDINGS["all", "boxes"]["en"][0], WORDINGS["all", "boxes"]["zh"][0]}
    chosen = [prompts(each, language="both")[0] for each in PICTURES]

    assert set(chosen) == first
    assert chosen != [prompts(each, language="both", seed=1)[0] for each in PICTURES]


@pytest.mark.parametrize("ask", ["all", "classes", "each"])
@pytest.mark.parametrize("targets", ["boxes", "points"])
@pytest.mark.parametrize("language", ["en", "zh", "both"])
def test_no_wording_comes_twice_while_there_are_others(ask: str, targets: str, language: str) -> None:
    about = record(CAT, name="b.jpg")
    languages = ("en", "zh") if language == "both" else (language,)
    count = sum(len(WORDINGS[ask, targets][each]) for each in languages)
    said = prompts(about, ask=ask, targets=targets, language=language, questions=count + 1, negatives=0)

    assert count >= 3
    assert len(set(said[:count])) == count
    assert said[count] == said[0]
    assert not any(placeholder in prompt for prompt in said for placeholder in (*PLACEHOLDERS, "{", "}"))


def test_users_prompts_are_all_used_and_none_twice_for_a_picture() -> None:
    mine = ("Find it.", "Seek it.", "Where is it?")
    said = [prompts(each, prompts=mine, questions=2) for each in PICTURES]

    assert {prompt for each in said for prompt in each} == set(mine)
    assert all(one != two for one, two in said)


def test_classes_are_named_in_the_words_of_the_language() -> None:
    assert "cat, dog, bird" in prompts(record(CAT), ask="classes")[0]
    assert "cat、dog、bird" in prompts(record(CAT), ask="classes", language="zh")[0]
    assert prompts(record(CAT), prompts=("Any of {classes}?",)) == ["Any of cat, dog, bird?"]
    assert prompts(record(CAT), prompts=("有{classes}吗？",)) == ["有cat、dog、bird吗？"]


def test_merged_classes_are_named_once() -> None:
    assert prompts(record(CAT), Classes({0: "cat", 1: "cat", 2: "dog"}), prompts=("{classes}",)) == ["cat, dog"]


def test_other_braces_of_a_template_stay_as_they_are() -> None:
    template = 'Answer [{"bbox_2d": [], "label": "{class}"}] or {} for {0} {{class}}.'
    expected = 'Answer [{"bbox_2d": [], "label": "cat"}] or {} for {0} {cat}.'

    assert prompts(record(CAT), ask="each", prompts=(template,), negatives=0) == [expected]


def test_a_class_called_like_a_slot_is_not_filled_again() -> None:
    about = record(target("{classes}", class_id=0))

    assert prompts(about, Classes({0: "{classes}"}), ask="each", prompts=("Find {class}.",)) == ["Find {classes}."]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"prompts": ("<image>\nFind it.",)}, "prompts: .*<image>"),
        ({"prompts": ("Find it.", "In <video>?")}, "prompts: .*<video>"),
        ({"prompts": ("Give <bbox>",)}, "prompts: .*<bbox>"),
        ({"prompts": ("Find the {class}.",)}, "prompts: .*only `ask: each`"),
        ({"prompts": ("Find it.",), "ask": "each"}, "prompts: .*{class}"),
        ({"max_answer_tokens": 100}, "tokenizer: there is none"),
    ],
)
def test_options_that_cannot_be_asked_with_are_refused_by_name(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        Asker(ConversionOptions.model_validate(options), CLASSES)


@pytest.mark.parametrize("options", [{"ask": "classes"}, {"prompts": ("Any of {classes}?",)}])
def test_classes_without_names_cannot_be_named(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="not known"):
        Asker(ConversionOptions.model_validate(options), Classes(None))


def test_a_class_that_trainers_take_for_a_picture_cannot_stand_in_a_prompt() -> None:
    classes = Classes({0: "<image>"})
    with pytest.raises(InvalidInput, match=r"rename: .*<image>"):
        Asker(ConversionOptions(ask="each"), classes)
    assert prompts(record(target("<image>")), classes) == [DEFAULT_PROMPT]


# --- each class by itself -------------------------------------------------------------------------------------


def test_each_class_that_is_shown_gets_its_question_and_its_objects() -> None:
    questions = asked(record(DOG, CAT, DOG), ask="each", prompts=("{class}?",), negatives=0)

    assert questions == [Question("cat?", (CAT,), ""), Question("dog?", (DOG, DOG), "")]


def test_without_a_ratio_as_many_absent_classes_are_asked_for_as_are_shown() -> None:
    absent = {
        question.prompt
        for number in range(40)
        for question in asked(record(CAT, name=f"{number}.jpg"), ask="each", prompts=("{class}",))[1:]
        if question.targets == ()
    }

    assert absent == {"dog", "bird"}
    assert [len(asked(each, ask="each")) for each in (record(CAT), record(CAT, DOG), record())] == [2, 3, 1]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 1.5, 9.0])
def test_the_ratio_of_absent_classes_is_kept_on_average(ratio: float) -> None:
    names = Classes({number: f"class {number}" for number in range(5)})
    pictures = [record(target("class 0"), name=f"{number}.jpg") for number in range(400)]
    counts = [len(asked(each, names, ask="each", negatives=ratio)) - 1 for each in pictures]

    expected = min(ratio, 4)
    assert all(int(expected) <= count <= int(expected) + 1 for count in counts)
    assert sum(counts) / len(counts) == pytest.approx(expected, abs=0.07)


def test_a_set_without_names_is_asked_for_what_it_shows() -> None:
    about = record(target("class_7", class_id=7))

    assert prompts(about, Classes(None), ask="each", prompts=("{class}?",)) == ["class_7?"]


# --- order ----------------------------------------------------------------------------------------------------


def test_by_position_reads_rows_from_left_to_right_and_down() -> None:
    left, middle, right = (
        target("a", (0.0, 0.12, 0.2, 0.3)), target("b", (0.4, 0.1, 0.5, 0.32)), target("c", (0.8, 0.15, 0.9, 0.3)),
    )  # fmt: skip
    below, whole = target("d", (0.0, 0.5, 0.1, 0.6)), target("e", (0, 0, 1, 1))

    assert by_position([below, right, middle, left]) == [left, middle, right, below]
    assert by_position([whole, below, left])[0] == left


def test_the_orders_are_what_they_say() -> None:
    small, large, dog = target("cat", (0.5, 0.5, 0.6, 0.6)), target("cat", (0, 0.7, 1, 1)), DOG
    about = record(dog, small, large)

    def order(how: str) -> tuple[Target, ...]:
        return asked(about, order=how)[0].targets

    assert order("source") == (dog, small, large)
    assert order("position") == (dog, small, large)
    assert order("size")[0] == large
    assert order("class") == (small, large, dog)
    assert sorted(map(id, order("shuffled"))) == sorted(map(id, about.targets))


def test_shuffling_depends_on_the_picture_and_the_seed() -> None:
    objects = grid(8)

    def order(name: str, seed: int) -> tuple[float, ...]:
        return tuple(each.box.y1 for each in asked(record(*objects, name=name), order="shuffled", seed=seed)[0].targets)

    cases = [(name, seed) for name in ("a.jpg", "b.jpg") for seed in (1, 2)]
    assert len({order(*case) for case in cases}) == 4
    assert [order(*case) for case in cases] == [order(*case) for case in cases]


def test_what_chance_decides_never_changes() -> None:
    assert "".join(shuffled("abcdef", 0, "images/a.jpg", "order")) == "acefbd"


@given(st.lists(targets_anywhere(), max_size=8), st.sampled_from(["source", "position", "size", "class", "shuffled"]))
def test_no_order_loses_or_doubles_an_object(targets: list[Target], how: str) -> None:
    (question,) = asked(record(*targets), order=how)

    assert sorted(map(id, question.targets)) == sorted(map(id, targets))


# --- parts ----------------------------------------------------------------------------------------------------


def test_more_objects_than_an_answer_may_have_are_asked_for_in_parts() -> None:
    objects = grid(7)
    questions = asked(record(*reversed(objects)), max_boxes=3)

    assert [question.targets for question in questions] == [objects[:3], objects[3:6], objects[6:]]
    assert questions[1].prompt == (
        f"{DEFAULT_PROMPT} Count them from top to bottom, and from left to right in a row. This is part 2 of 3: give "
        "only numbers 4 to 6."
    )
    assert [len(each.targets) for each in asked(record(*objects), max_boxes=7)] == [7]


def test_parts_are_told_apart_in_the_language_of_the_question() -> None:
    chinese = prompts(record(*grid(4)), max_boxes=2, language="zh")
    mine = prompts(record(*grid(4)), max_boxes=2, prompts=("全部找出来。",))

    assert "第1部分，共2部分" in chinese[0]
    assert mine[1].startswith("全部找出来。请按从上到下")


def test_parts_by_size_are_numbered_by_size() -> None:
    questions = asked(record(*grid(2), target("dog", (0, 0, 1, 1))), max_boxes=2, order="size")

    assert "from the largest to the smallest" in questions[0].prompt
    assert questions[0].targets[0].label == "dog"


@pytest.mark.parametrize("how", ["class", "shuffled"])
def test_an_order_that_no_number_tells_holds_inside_each_part(how: str) -> None:
    objects = tuple(target(("cat", "dog")[place % 2], each.box.corners) for place, each in enumerate(grid(12)))
    questions = asked(record(*objects), max_boxes=6, order=how)

    assert [set(map(id, each.targets)) for each in questions] == [set(map(id, objects[:6])), set(map(id, objects[6:]))]
    assert questions[0].targets != objects[:6]


def test_each_wording_is_asked_for_every_part() -> None:
    said = prompts(record(*grid(4)), max_boxes=2, prompts=("One.", "Two."), questions=2)

    assert sorted(prompt[:4] for prompt in said) == ["One.", "One.", "Two.", "Two."]


def test_limits_hold_for_each_class_by_itself() -> None:
    questions = asked(record(*grid(3), *grid(2, "dog")), ask="each", max_boxes=2, negatives=0, prompts=("{class}.",))

    assert [(each.prompt[:4], len(each.targets)) for each in questions] == [("cat.", 2), ("cat.", 1), ("dog.", 2)]


@pytest.mark.parametrize(
    ("options", "code"),
    [({"max_boxes": 4}, "too_many_objects"), ({"max_answer_tokens": 100}, "answer_too_long")],
)
def test_where_the_options_do_not_split_the_picture_is_refused(options: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refusal:
        asked(record(*grid(5)), tokenizer=TOKENIZER, overflow="refuse", **options)

    assert refusal.value.finding.fault.code == code
    assert "5 objects" in refusal.value.finding.reason or "tokens" in refusal.value.finding.reason


def test_one_object_that_is_too_long_alone_is_refused() -> None:
    with pytest.raises(Refused, match="tokens"):
        asked(record(target("a very long name indeed " * 10)), tokenizer=TOKENIZER, max_answer_tokens=40)


@settings(max_examples=40)
@given(
    st.lists(targets_anywhere(), min_size=1, max_size=12),
    st.integers(90, 300),
    st.one_of(st.none(), st.integers(1, 6)),
    st.sampled_from(["source", "position", "size", "class", "shuffled"]),
    st.sampled_from(["native", "objects"]),
)
def test_every_part_fits_and_together_they_are_the_whole(
    targets: list[Target], tokens: int, boxes: int | None, how: str, answer: str
) -> None:
    options = ConversionOptions.model_validate(
        {"max_answer_tokens": tokens, "max_boxes": boxes, "order": how, "answer": answer}
    )
    questions = Asker(options, CLASSES, TOKENIZER).questions(record(*targets))
    lengths = [count_tokens(TOKENIZER, answer_text(each.targets, options)) for each in questions]

    assert max(lengths) <= tokens
    assert all(len(each.targets) <= (boxes or 12) for each in questions)
    assert sorted(id(one) for each in questions for one in each.targets) == sorted(map(id, targets))
    if boxes is None and how == "size":  # no part could have taken the first of the next
        for one, two in pairwise(questions):
            assert count_tokens(TOKENIZER, answer_text((*one.targets, two.targets[0]), options)) > tokens


# --- everywhere the same --------------------------------------------------------------------------------------


def test_another_process_asks_the_same() -> None:
    options: dict[str, Any] = {"order": "shuffled", "questions": 3, "language": "both", "ask": "each", "max_boxes": 2}
    here = [prompts(each, **options) for each in PICTURES[:5]]
    program = (
        "from tests.language.test_asking import PICTURES, prompts\n"
        f"print([prompts(each, **{options!r}) for each in PICTURES[:5]])"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert there.stdout.strip() == repr(here)


def test_an_asker_can_be_sent_to_another_process() -> None:
    asker = Asker(ConversionOptions(max_answer_tokens=60, order="class"), CLASSES, TOKENIZER)
    about = record(*grid(6))

    assert pickle.loads(pickle.dumps(asker)).questions(about) == asker.questions(about)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"tokenizer: tokenizer\.json cannot be read"):
        Asker(ConversionOptions(max_answer_tokens=60), CLASSES, tmp_path / "tokenizer.json")


def test_where_the_package_is_missing_the_option_says_so() -> None:
    program = (
        "import sys\nsys.modules['tokenizers'] = None\n"
        "from tests.language.test_asking import TOKENIZER, asked, record\n"
        "asked(record(), tokenizer=TOKENIZER, max_answer_tokens=60)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert "max_answer_tokens: the package `tokenizers` is not installed" in done.stderr
