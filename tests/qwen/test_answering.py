from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Semaphore

import pytest
import torch
from PIL import Image

from vlyard.demo.shapes import draw_scenes
from vlyard.errors import Cancelled, InvalidInput, Unavailable
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.engine import Engine, Limits
from workers.qwen.loading import LoadedModel, load_model
from workers.qwen.request import Budget, Request, Turn
from workers.qwen.sampling import GREEDY, Sampling

LIMITS = Limits(batch_tokens=16_384, batch_rows=32, wait_seconds=0.02, feature_bytes=2**26)
LIVELY = Sampling(max_new_tokens=48, temperature=1.5, top_p=0.95, top_k=50)  # so that two seeds differ

PROPORTIONS = [(256, 256), (512, 128), (128, 512), (256, 128)]


@pytest.fixture(scope="module")
def engine(demo: LoadedModel) -> Iterator[Engine]:
    with closing(Engine(demo, LIMITS)) as engine:
        yield engine


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return next(draw_scenes(7)).picture


def about(picture: Image.Image, prompt: str = DEFAULT_PROMPT, sampling: Sampling = GREEDY) -> Request:
    return Request((Turn("user", (picture, prompt)),), sampling)


class Countdown:
    """Counts how often it is asked, and calls the work off at the given call."""

    def __init__(self, calls: int) -> None:
        self.calls, self.left = 0, calls

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.left:
            raise Cancelled


def test_the_answer_is_word_for_word_that_of_the_tutorials_recipe(
    engine: Engine, demo: LoadedModel, picture: Image.Image
) -> None:
    content = [{"type": "image", "image": picture}, {"type": "text", "text": DEFAULT_PROMPT}]
    inputs = demo.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    torch.manual_seed(5)
    sequence = demo.model.generate(**inputs, max_new_tokens=48, do_sample=True, temperature=1.5, top_p=0.95, top_k=50)
    trimmed = sequence[:, inputs["input_ids"].shape[1] :]
    (expected,) = demo.processor.batch_decode(trimmed, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    said = engine.ask(about(picture, sampling=replace(LIVELY, seed=5)))

    assert said.text == expected
    assert said.prompt_tokens == inputs["input_ids"].shape[1]
    assert said.picture_tokens == (inputs["input_ids"] == demo.processor.image_token_id).sum()
    assert said.completion_tokens == trimmed.shape[1]


def test_an_answer_is_the_same_while_other_threads_ask(engine: Engine, picture: Image.Image) -> None:
    questions = [
        about(picture.resize(size), sampling=replace(LIVELY, seed=seed)) for seed, size in enumerate(PROPORTIONS)
    ]
    alone = [engine.ask(question) for question in questions]

    with ThreadPoolExecutor(len(questions)) as pool:
        together = list(pool.map(engine.ask, questions))

    assert [said.text for said in together] == [said.text for said in alone]
    assert {said.rows for said in alone} == {1}
    assert max(said.rows for said in together) > 1
    assert len({said.text for said in alone}) > 1


def test_the_global_random_numbers_are_left_alone(engine: Engine, picture: Image.Image) -> None:
    before = torch.get_rng_state()

    engine.ask(about(picture, sampling=replace(LIVELY, seed=1, max_new_tokens=4)))
    engine.ask(about(picture, sampling=replace(LIVELY, max_new_tokens=4)))

    assert torch.equal(torch.get_rng_state(), before)


def test_an_answer_that_ends_by_itself_says_stop_and_one_that_is_cut_says_length(
    engine: Engine, picture: Image.Image
) -> None:
    whole = engine.ask(about(picture))
    cut = engine.ask(about(picture, sampling=replace(GREEDY, max_new_tokens=9)))

    assert (whole.finish_reason, cut.finish_reason) == ("stop", "length")
    assert cut.completion_tokens == 9
    assert whole.text.startswith(cut.text)


def test_an_answer_says_how_long_it_took(engine: Engine, picture: Image.Image) -> None:
    said = engine.ask(about(picture))

    assert 0 < said.waited_seconds < said.first_token_seconds < said.waited_seconds + said.seconds


def test_a_cancelled_question_stops_at_the_next_token(engine: Engine, picture: Image.Image) -> None:
    stop = Countdown(5)

    answer = engine.ask(about(picture), stop)

    assert stop.calls == 5
    assert answer.finish_reason == "cancelled"
    assert 0 < answer.completion_tokens < 5
    assert engine.ask(about(picture)).finish_reason == "stop"


def test_a_question_that_waits_for_its_batch_can_be_cancelled(demo: LoadedModel, picture: Image.Image) -> None:
    stop = Countdown(3)  # the first look is before the waiting

    with closing(Engine(demo, replace(LIMITS, wait_seconds=600))) as engine, pytest.raises(Cancelled):
        engine.ask(about(picture), stop)

    assert stop.calls == 3


def test_a_question_longer_than_the_context_is_refused_before_any_work(engine: Engine, picture: Image.Image) -> None:
    with pytest.raises(InvalidInput, match=r"/spec/prompt: with its pictures it has \d+ tokens \(shorten it by \d+"):
        engine.ask(about(picture, "word " * 9_000))


@pytest.mark.parametrize("word", ["<|image_pad|>", "<|vision_start|>", "<|video_pad|>"])
def test_a_question_that_holds_a_pictures_place_is_refused(engine: Engine, picture: Image.Image, word: str) -> None:
    with pytest.raises(InvalidInput, match="/spec/prompt"):
        engine.ask(about(picture, f"What is {word}?"))


def test_a_picture_of_impossible_proportions_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="refuses the picture"):
        engine.ask(about(Image.new("RGB", (3_000, 3))))


def test_pictures_of_every_shape_can_be_asked_about(engine: Engine) -> None:
    for size in [(1, 1), (1, 150), (31, 900), (2_000, 1_000)]:
        said = engine.ask(about(Image.new("RGB", size, "grey"), sampling=replace(GREEDY, max_new_tokens=2)))

        assert said.completion_tokens == 2, size


def test_the_same_question_has_the_same_answer_after_other_questions(engine: Engine) -> None:
    first, second = (scene.picture for scene in islice(draw_scenes(8), 2))
    before = engine.ask(about(first)).text

    engine.ask(about(second, "What else?"))

    assert engine.ask(about(first)).text == before


def test_a_question_needs_no_picture_and_a_conversation_may_have_several(engine: Engine, picture: Image.Image) -> None:
    short = replace(GREEDY, max_new_tokens=3)
    turns = (
        Turn("system", ("Be short.",)),
        Turn("user", (picture, picture.resize((128, 64)), "Which is wider?")),
        Turn("assistant", ("The second.",)),
        Turn("user", ("And this?", picture)),
    )

    plain = engine.ask(Request((Turn("user", ("Hello.",)),), short))
    long = engine.ask(Request(turns, short))

    assert plain.picture_tokens == 0
    assert long.picture_tokens > 2 * engine.ask(about(picture, sampling=short)).picture_tokens
    assert (plain.completion_tokens, long.completion_tokens) == (3, 3)


def test_a_budget_changes_how_many_tokens_a_picture_has(engine: Engine, picture: Image.Image) -> None:
    def tokens(budget: Budget) -> int:
        return engine.ask(
            replace(about(picture, sampling=replace(GREEDY, max_new_tokens=1)), budget=budget)
        ).picture_tokens

    own, small, large = tokens(Budget()), tokens(Budget(max_pixels=64 * 64)), tokens(Budget(256 * 256, 512 * 512))

    assert (small, own, large) == (4, 16, 64)
    with pytest.raises(InvalidInput, match=r"/spec/min_pixels: is 100, which is more than max_pixels, 50"):
        tokens(Budget(100, 50))


def test_a_stop_word_ends_the_answer_and_is_no_part_of_it(engine: Engine, picture: Image.Image) -> None:
    whole = engine.ask(about(picture)).text
    stops = ('label": "', "zebra")  # of which only the first comes; it is several tokens long
    heard: list[str] = []

    said = engine.ask(about(picture, sampling=replace(GREEDY, stop=stops)), told=heard.append)

    assert said.text == whole[: whole.index(stops[0])]
    assert said.finish_reason == "stop"
    assert "".join(heard) == said.text  # nothing of the stop word was told before it was one


def test_an_answer_is_heard_as_it_grows(engine: Engine, picture: Image.Image) -> None:
    heard: list[str] = []

    said = engine.ask(about(picture), told=heard.append)

    assert "".join(heard) == said.text
    assert len(heard) > said.completion_tokens // 2


def test_what_a_listener_raises_comes_out_and_ends_the_work(engine: Engine, picture: Image.Image) -> None:
    def leave(_: str) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        engine.ask(about(picture), told=leave)

    assert engine.ask(about(picture)).rows == 1


def test_a_closed_engine_says_so(demo: LoadedModel, picture: Image.Image) -> None:
    engine = Engine(demo, replace(LIMITS, wait_seconds=600))
    looks = Semaphore(0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(engine.ask, about(picture), looks.release)
        looks.acquire()
        looks.acquire()  # the second look is while it waits
        engine.close()

        with pytest.raises(Unavailable, match="unloaded"):
            waiting.result(timeout=10)
    with pytest.raises(Unavailable, match="unloaded"):
        engine.ask(about(picture))


def test_thirty_two_threads_have_their_own_answers(engine: Engine) -> None:
    questions = [
        about(scene.picture, sampling=replace(GREEDY, max_new_tokens=20)) for scene in islice(draw_scenes(9), 32)
    ]
    alone = [engine.ask(question).text for question in questions]

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(engine.ask, questions))

    assert [said.text for said in together] == alone
    assert len(set(alone)) > 16
    assert max(said.rows for said in together) > 4


def test_an_answer_that_only_repeats_itself_is_ended(untrained: Path, picture: Image.Image) -> None:
    heard: list[str] = []
    with closing(Engine(load_model(untrained), LIMITS)) as engine:
        said = engine.ask(about(picture, sampling=replace(GREEDY, max_new_tokens=2_000)), told=heard.append)

    assert said.finish_reason == "loop"
    assert said.completion_tokens < 1_200
    assert said.text == "".join(heard)
