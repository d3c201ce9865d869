from random import Random

import pytest

from vlyard.formats.answer import write_answer
from vlyard.formats.box import Box
from workers.qwen.loading import LoadedModel
from workers.qwen.loops import repeats_itself


@pytest.mark.parametrize("period", [1, 2, 7, 24, 100, 250])
def test_words_said_again_and_again_are_a_loop(period: int) -> None:
    random = Random(period)
    before = [random.randrange(1_000) for _ in range(300)]
    words = [random.randrange(1_000) for _ in range(period)]
    enough = max(4 * period, 192)

    assert repeats_itself([*before, *words * 200][: len(before) + enough])
    assert not repeats_itself([*before, *words * 200][: len(before) + enough - 2])


def test_a_loop_that_was_left_is_none() -> None:
    assert not repeats_itself([*[1, 2, 3] * 100, 4])


def test_many_boxes_of_one_kind_and_size_are_no_loop(demo: LoadedModel) -> None:
    objects = [("chair", Box.from_thousand((20 * at, 100, 20 * at + 15, 130))) for at in range(49)]

    tokens = demo.processor.tokenizer(write_answer(objects)).input_ids

    assert len(tokens) > 192
    assert not any(repeats_itself(tokens[:end]) for end in range(0, len(tokens), 7))


def test_one_box_said_for_ever_is_a_loop(demo: LoadedModel) -> None:
    objects = [("chair", Box.from_thousand((20, 100, 35, 130)))] * 60

    assert repeats_itself(demo.processor.tokenizer(write_answer(objects)).input_ids[:-8])


def test_forty_empty_cells_of_a_table_are_no_loop() -> None:
    cell = [1, 2, 3, 4]  # <td></td> in Qwen's tokens

    assert not repeats_itself([5, 6, *cell * 40])
