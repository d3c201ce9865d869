from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import pytest
import torch
from PIL import Image

from vlyard.demo.shapes import draw_scenes
from vlyard.errors import Cancelled, InvalidInput
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.generating import ask, decode
from workers.qwen.inputs import encode
from workers.qwen.loading import LoadedModel
from workers.qwen.sampling import GREEDY, Sampling

LIVELY = Sampling(max_new_tokens=48, temperature=1.5, top_p=0.95, top_k=50)  # so that two seeds differ

PROPORTIONS = [(256, 256), (512, 128), (128, 512), (256, 128)]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return next(draw_scenes(7)).picture


class Countdown:
    """Counts how often it is asked, and calls the work off at the given call."""

    def __init__(self, calls: int) -> None:
        self.calls, self.left = 0, calls

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.left:
            raise Cancelled


def test_the_answer_is_word_for_word_that_of_the_tutorials_recipe(demo: LoadedModel, picture: Image.Image) -> None:
    inputs = encode(demo.processor, picture, DEFAULT_PROMPT)
    torch.manual_seed(5)
    sequence = demo.model.generate(**inputs, max_new_tokens=48, do_sample=True, temperature=1.5, top_p=0.95, top_k=50)
    trimmed = sequence[:, inputs["input_ids"].shape[1] :]
    (expected,) = demo.processor.batch_decode(trimmed, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    said = ask(demo, picture, DEFAULT_PROMPT, replace(LIVELY, seed=5))

    assert said.text == expected
    assert said.prompt_tokens == inputs["input_ids"].shape[1]
    assert said.completion_tokens == trimmed.shape[1]


def test_an_answer_is_the_same_while_other_threads_ask(demo: LoadedModel, picture: Image.Image) -> None:
    # Pictures of other proportions: the model keeps their position offsets while it answers.
    questions = [(picture.resize(size), replace(LIVELY, seed=seed)) for seed, size in enumerate(PROPORTIONS)]
    alone = [ask(demo, shown, DEFAULT_PROMPT, sampling).text for shown, sampling in questions]

    with ThreadPoolExecutor(len(questions)) as pool:
        together = list(pool.map(lambda question: ask(demo, question[0], DEFAULT_PROMPT, question[1]).text, questions))

    assert together == alone
    assert len(set(alone)) > 1


def test_the_global_random_numbers_are_left_alone(demo: LoadedModel, picture: Image.Image) -> None:
    before = torch.get_rng_state()

    ask(demo, picture, DEFAULT_PROMPT, replace(LIVELY, seed=1, max_new_tokens=4))

    assert torch.equal(torch.get_rng_state(), before)


def test_an_answer_that_ends_by_itself_says_stop_and_one_that_is_cut_says_length(
    demo: LoadedModel, picture: Image.Image
) -> None:
    whole = ask(demo, picture, DEFAULT_PROMPT, GREEDY)
    cut = ask(demo, picture, DEFAULT_PROMPT, replace(GREEDY, max_new_tokens=9))

    assert (whole.finish_reason, cut.finish_reason) == ("stop", "length")
    assert cut.completion_tokens == 9
    assert whole.text.startswith(cut.text)


def test_a_cancelled_question_stops_at_the_next_token(demo: LoadedModel, picture: Image.Image) -> None:
    stop = Countdown(5)

    with pytest.raises(Cancelled):
        ask(demo, picture, DEFAULT_PROMPT, GREEDY, stop)

    assert stop.calls == 5
    assert ask(demo, picture, DEFAULT_PROMPT, GREEDY).finish_reason == "stop"


def test_a_question_that_waits_for_its_turn_can_be_cancelled(demo: LoadedModel, picture: Image.Image) -> None:
    stop = Countdown(3)  # one token is looked at once, so it would be there before the third look

    with demo.turn, pytest.raises(Cancelled):
        ask(demo, picture, DEFAULT_PROMPT, replace(GREEDY, max_new_tokens=1), stop)

    assert not demo.turn.locked()


def test_a_question_longer_than_the_context_is_refused_before_any_work(demo: LoadedModel, picture: Image.Image) -> None:
    with pytest.raises(InvalidInput, match=r"/spec/prompt: with the picture it has \d+ tokens"):
        ask(demo, picture, "word " * 9_000, GREEDY)


@pytest.mark.parametrize("word", ["<|image_pad|>", "<|vision_start|>", "<|video_pad|>"])
def test_a_question_that_holds_a_pictures_place_is_refused(demo: LoadedModel, picture: Image.Image, word: str) -> None:
    with pytest.raises(InvalidInput, match="/spec/prompt"):
        ask(demo, picture, f"What is {word}?", GREEDY)


def test_a_picture_of_impossible_proportions_is_refused(demo: LoadedModel) -> None:
    with pytest.raises(InvalidInput, match="refuses the picture"):
        ask(demo, Image.new("RGB", (3_000, 3)), DEFAULT_PROMPT, GREEDY)


def test_boxes_in_the_legacy_form_survive_decoding_and_ends_do_not(demo: LoadedModel) -> None:
    spoken = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
    tokens = demo.processor.tokenizer(f"{spoken}<|im_end|><|endoftext|>").input_ids

    assert decode(demo, tokens) == spoken


def test_a_byte_that_no_database_stores_is_replaced(demo: LoadedModel) -> None:
    tokens = demo.processor.tokenizer("a\0b").input_ids

    assert decode(demo, tokens) == "a\ufffdb"


def test_pictures_of_every_shape_can_be_asked_about(demo: LoadedModel) -> None:
    for size in [(1, 1), (1, 150), (31, 900), (2_000, 1_000)]:
        said = ask(demo, Image.new("RGB", size, "grey"), DEFAULT_PROMPT, replace(GREEDY, max_new_tokens=2))

        assert said.completion_tokens == 2, size


def test_the_same_question_has_the_same_answer_after_other_questions(demo: LoadedModel) -> None:
    first, second = (scene.picture for scene in islice(draw_scenes(8), 2))
    before = ask(demo, first, DEFAULT_PROMPT, GREEDY).text

    ask(demo, second, "What else?", GREEDY)

    assert ask(demo, first, DEFAULT_PROMPT, GREEDY).text == before
