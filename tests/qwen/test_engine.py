"""Rows in one batch: what they share, and what they do not."""

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from random import Random
from threading import Event
from time import sleep
from types import MappingProxyType
from typing import Any

import pytest
import torch
from PIL import Image

from vlyard.demo.shapes import draw_scenes
from vlyard.errors import Cancelled, InvalidInput, WorkerStopping
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.batch import Batch, Row, rope_positions
from workers.qwen.engine import Engine, Generation, Limits
from workers.qwen.features import FeatureCache
from workers.qwen.inputs import encode
from workers.qwen.loading import DEMO_FOLDER, LoadedModel, load_model
from workers.qwen.request import Budget, Request, Turn
from workers.qwen.sampling import GREEDY, Sampling

TOGETHER = Limits(batch_tokens=2**20, batch_rows=4, wait_seconds=60, feature_bytes=2**26)  # waits for four
SHARED = torch.Generator()

PROMPTS = [DEFAULT_PROMPT, "Where?", "Tell me about " + "many " * 40 + "things.", "Hello"]
SIZES = [(128, 128), (96, 200), (320, 64), (256, 256)]
BUDGETS = [Budget(), Budget(64 * 64, 64 * 64), Budget(256 * 256, 300 * 300), Budget()]


def requests(sampling: Sampling = GREEDY) -> list[Request]:
    scenes = islice(draw_scenes(11), 4)
    pictures = [scene.picture.resize(size) for scene, size in zip(scenes, SIZES, strict=True)]
    contents: list[tuple[str | Image.Image, ...]] = [
        (pictures[0], PROMPTS[0]),
        (pictures[1], PROMPTS[1]),
        (pictures[2], pictures[0], PROMPTS[2]),
        (PROMPTS[3],),
    ]
    return [
        Request((Turn("user", content),), sampling, budget) for content, budget in zip(contents, BUDGETS, strict=True)
    ]


def make_row(loaded: LoadedModel, request: Request) -> Row:
    encoded = encode(loaded.processor, request)
    return Row(encoded, rope_positions(loaded, encoded), request.sampling, None)


def begin(loaded: LoadedModel, rows: Sequence[Row]) -> Batch:
    return Batch(loaded, rows, FeatureCache(0), SHARED)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def own() -> LoadedModel:
    """The demo model, to be damaged."""
    return load_model(DEMO_FOLDER)


def nothing() -> None:
    """Never stops."""


def submit(
    engine: Engine,
    asked: Sequence[Request],
    checks: Mapping[int, Callable[[], None]] = MappingProxyType({}),
    told: Mapping[int, Callable[[str], None]] = MappingProxyType({}),
) -> list[Future[Generation]]:
    """Ask all at once, and wait for all."""
    with ThreadPoolExecutor(len(asked)) as pool:
        return [
            pool.submit(engine.ask, request, checks.get(at, nothing), *([told[at]] if at in told else []))
            for at, request in enumerate(asked)
        ]


def ask_together(
    loaded: LoadedModel, asked: Sequence[Request], *how: Any, limits: Limits = TOGETHER, **also: Any
) -> list[Future[Generation]]:
    with closing(Engine(loaded, limits)) as engine:
        return submit(engine, asked, *how, **also)


@pytest.fixture(scope="module")
def expected(demo: LoadedModel) -> list[str]:
    """The answers, each of a batch of its own."""
    with closing(Engine(demo, replace(TOGETHER, batch_rows=1))) as engine:
        return [engine.ask(request).text for request in requests()]


def follow(batch: Batch, steps: int) -> list[tuple[torch.Tensor, list[int | None]]]:
    """The scores and the tokens of each step."""
    followed = []
    for _ in range(steps):
        tokens = batch.step()
        followed.append((batch.scores.clone(), tokens))
    return followed


def margins(scores: torch.Tensor) -> torch.Tensor:
    best = scores.topk(2).values
    return best[..., 0] - best[..., 1]


def test_the_scores_of_a_batch_are_those_of_each_row_alone(demo: LoadedModel) -> None:
    asked = requests()
    together = follow(begin(demo, [make_row(demo, request) for request in asked]), 24)

    compared = 0
    for row, request in enumerate(asked):
        alone = follow(begin(demo, [make_row(demo, request)]), 24)
        for (mine, [token]), (theirs, tokens) in zip(alone, together, strict=True):
            torch.testing.assert_close(mine[0], theirs[row], atol=1e-4, rtol=0)
            compared += 1
            if token != tokens[row]:
                assert margins(mine)[0] < 1e-3
                break  # from here on they answer different texts
    assert compared > 4 * 20


def test_rows_that_leave_and_rows_that_join_change_nothing_for_the_others(demo: LoadedModel) -> None:
    alone = [follow(begin(demo, [make_row(demo, request)]), 20) for request in requests()]
    rows = [make_row(demo, request) for request in requests()]

    batch = begin(demo, [rows[0], rows[2]])
    follow(batch, 5)
    late = begin(demo, [rows[1], rows[3]])
    follow(late, 1)
    batch.join(late)  # the late ones are shorter, so that they move to the right
    follow(batch, 4)
    batch.keep([0, 2, 3])  # the longest leaves, and with it the places that only it has used
    [(scores, _)] = follow(batch, 1)

    for at, (row, step) in enumerate([(0, 9), (1, 5), (3, 5)]):
        torch.testing.assert_close(scores[at], alone[row][step][0][0], atol=1e-4, rtol=0)
    assert batch.length == 10 + len(rows[0].encoded.ids) - 1


def test_a_row_that_begins_anew_goes_on_where_it_was(demo: LoadedModel) -> None:
    row = make_row(demo, requests()[2])
    first = follow(begin(demo, [row]), 6)
    again = follow(begin(demo, [row]), 6)
    whole = follow(begin(demo, [make_row(demo, requests()[2])]), 12)

    for (mine, token), (theirs, same) in zip(first + again, whole, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
        assert token == same


def test_an_attention_that_wants_its_mask_in_another_form_gives_the_same_scores(
    demo: LoadedModel, own: LoadedModel
) -> None:
    own.model.set_attn_implementation("eager")
    expected = follow(begin(demo, [make_row(demo, request) for request in requests()]), 5)

    found = follow(begin(replace(own, attention="eager"), [make_row(own, request) for request in requests()]), 5)

    for (mine, tokens), (theirs, same) in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
        assert tokens == same


def test_answers_do_not_depend_on_who_comes_when(demo: LoadedModel) -> None:
    random = Random(3)
    asked = [
        replace(random.choice(requests()), sampling=Sampling(random.choice([1, 7, 20, 40]), temperature=1.2, seed=seed))
        for seed in range(24)
    ]
    with closing(Engine(demo, replace(TOGETHER, batch_rows=1))) as engine:
        expected = [engine.ask(request).text for request in asked]

    def ask(engine: Engine, request: Request, later: float) -> Generation:
        sleep(later)
        return engine.ask(request)

    limits = replace(TOGETHER, batch_rows=5, batch_tokens=2_000, wait_seconds=0)
    with closing(Engine(demo, limits)) as engine, ThreadPoolExecutor(24) as pool:
        said = [pool.submit(ask, engine, request, random.random() / 5) for request in asked]

    assert [each.result().text for each in said] == expected
    assert max(each.result().rows for each in said) == 5


def test_the_models_own_positions_are_not_touched(demo: LoadedModel) -> None:
    demo.model.model.rope_deltas = torch.tensor([[12_345]])

    with closing(Engine(demo, replace(TOGETHER, wait_seconds=0))) as engine:
        engine.ask(requests()[0])

    assert demo.model.model.rope_deltas.item() == 12_345
    demo.model.model.rope_deltas = None


def test_every_row_samples_in_its_own_way(demo: LoadedModel) -> None:
    ways = [
        Sampling(max_new_tokens=20, temperature=1.5, top_p=0.9, top_k=50, seed=1),
        Sampling(max_new_tokens=30, temperature=0.9, top_p=1.0, top_k=5, seed=2, repetition_penalty=1.3),
        replace(GREEDY, max_new_tokens=25, presence_penalty=1.5, frequency_penalty=0.5),
        replace(GREEDY, max_new_tokens=10),
    ]
    asked = [replace(request, sampling=way) for request, way in zip(requests(), ways, strict=True)]
    with closing(Engine(demo, replace(TOGETHER, batch_rows=1))) as engine:
        alone = [engine.ask(request) for request in asked]

    together = [said.result() for said in ask_together(demo, asked)]

    assert [said.text for said in together] == [said.text for said in alone]
    assert [said.rows for said in together] == [4] * 4


def test_a_question_waits_for_company_as_long_as_the_setting_says_and_no_longer(demo: LoadedModel) -> None:
    question = replace(requests()[3], sampling=replace(GREEDY, max_new_tokens=1))
    with closing(Engine(demo, replace(TOGETHER, wait_seconds=0.5))) as engine:
        patient = engine.ask(question)
    with closing(Engine(demo, replace(TOGETHER, wait_seconds=0))) as engine:
        hasty = engine.ask(question)

    assert 0.4 < patient.waited_seconds < 3  # what is over is a busy machine's
    assert hasty.waited_seconds < 0.4


def test_a_batch_takes_no_more_tokens_than_it_may(demo: LoadedModel) -> None:
    question = requests()[0]
    one = len(encode(demo.processor, question).ids) + question.sampling.max_new_tokens
    limits = replace(TOGETHER, batch_tokens=2 * one, wait_seconds=0.05)

    with closing(Engine(demo, limits)) as engine:
        said = [each.result() for each in submit(engine, [question] * 6)]

    assert max(each.rows for each in said) == 2
    assert len({each.text for each in said}) == 1


def test_more_go_together_once_answers_are_known_to_be_shorter_than_they_may_be(
    demo: LoadedModel, expected: list[str]
) -> None:
    question = replace(requests()[0], sampling=replace(GREEDY, max_new_tokens=1_000))
    room = 2 * (len(encode(demo.processor, question).ids) + 1_000)
    limits = replace(TOGETHER, batch_tokens=room, batch_rows=8, wait_seconds=2)

    with closing(Engine(demo, limits)) as engine:
        first, second = ([each.result() for each in submit(engine, [question] * 8)] for _ in range(2))
        other = submit(engine, [replace(question, alike="another")] * 8)

    assert sorted(each.rows for each in first)[3] <= 2  # four answers have to be known
    assert {each.rows for each in second} == {8}
    assert min(each.result().rows for each in other) <= 2  # of which nothing is known
    assert {each.text for each in first + second} == {expected[0]}


def test_answers_longer_than_was_expected_are_right_and_the_last_who_came_go_on_later(demo: LoadedModel) -> None:
    # given four short answers to questions that are alike, and room for four of them
    short, long = (replace(requests()[at], sampling=replace(GREEDY, max_new_tokens=150)) for at in (1, 3))
    with closing(Engine(demo, replace(TOGETHER, batch_rows=1))) as engine:
        expected = engine.ask(long)
    rows: list[int] = []
    limits = replace(TOGETHER, batch_tokens=4 * 60, wait_seconds=0.2)

    with (
        a_model_that(demo, lambda count, tokens: rows.append(count if tokens == 1 else 0)) as watched,
        closing(Engine(watched, limits)) as engine,
    ):
        for _ in range(4):
            assert engine.ask(short).completion_tokens < 40
        rows.clear()
        said = [each.result() for each in submit(engine, [long] * 4)]

    assert {each.text for each in said} == {expected.text}
    assert [each.completion_tokens for each in said] == [150] * 4
    assert [count for count in (4, 3, 2, 1) if count in rows] == [4, 3, 2, 1]
    assert rows.index(2) < 130  # they left while the others went on


def test_one_cancelled_row_keeps_its_words_so_far_and_leaves_the_others_alone(
    demo: LoadedModel, expected: list[str]
) -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Cancelled("by me")

    said = ask_together(demo, requests(), {1: stop})

    cut = said[1].result()
    assert (cut.finish_reason, cut.completion_tokens) == ("cancelled", 5)  # the first look came before the question
    assert cut.text
    assert expected[1].startswith(cut.text)
    assert [said[row].result().text for row in (0, 2, 3)] == [expected[row] for row in (0, 2, 3)]


def test_who_is_told_to_stop_for_another_reason_hears_it_unchanged(demo: LoadedModel) -> None:
    calls = iter(range(10**6))

    def stop() -> None:
        if next(calls) == 4:
            raise WorkerStopping("with the machine")

    [said] = ask_together(demo, requests()[:1], {0: stop}, limits=replace(TOGETHER, wait_seconds=0))

    with pytest.raises(WorkerStopping, match="with the machine"):
        said.result()


def test_a_row_that_a_text_stops_leaves_the_others_alone(demo: LoadedModel, expected: list[str]) -> None:
    stopping = requests()
    stopping[0] = replace(stopping[0], sampling=replace(GREEDY, stop=('"label"',)))

    said = [each.result() for each in ask_together(demo, stopping)]

    assert said[0].text == expected[0][: expected[0].index('"label"')]
    assert [each.text for each in said[1:]] == expected[1:]
    assert ([each.rows for each in said], said[0].finish_reason) == ([4] * 4, "stop")


def test_a_row_whose_scores_are_no_numbers_fails_alone(
    demo: LoadedModel, own: LoadedModel, expected: list[str]
) -> None:
    (word,) = set(own.processor.tokenizer("?").input_ids)  # of all prompts it is in the second alone
    own.model.lm_head.weight = torch.nn.Parameter(own.model.lm_head.weight.clone())
    own.model.model.language_model.embed_tokens.weight[word] = torch.nan

    said = ask_together(own, requests())

    with pytest.raises(InvalidInput, match="no numbers"):
        said[1].result()
    assert [said[row].result().text for row in (0, 2, 3)] == [expected[row] for row in (0, 2, 3)]


@contextmanager
def a_model_that(loaded: LoadedModel, before: Callable[[int, int], None]) -> Iterator[LoadedModel]:
    """Its language model first calls `before` with how many rows it is given, and how many tokens of each."""

    def hook(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        tensor = given["inputs_embeds"] if "inputs_embeds" in given else given["input_ids"]
        before(tensor.shape[0], tensor.shape[1])

    handle = loaded.model.model.language_model.register_forward_pre_hook(hook, with_kwargs=True)
    yield loaded
    handle.remove()


def test_those_who_come_while_others_are_answered_join_them(demo: LoadedModel, expected: list[str]) -> None:
    first, second = requests()[0], requests()[1]
    under_way, entered = Event(), Event()

    def hold() -> None:
        under_way.set()
        assert entered.wait(10)

    def looked() -> None:
        entered.set()

    with closing(Engine(demo, replace(TOGETHER, wait_seconds=0))) as engine, ThreadPoolExecutor(2) as pool:
        early = pool.submit(engine.ask, first, under_way_at_the_third(hold))
        assert under_way.wait(10)
        late = pool.submit(engine.ask, second, looked)
        said = [early.result(), late.result()]

    assert [each.text for each in said] == expected[:2]
    assert [each.rows for each in said] == [1, 2]


def under_way_at_the_third(hold: Callable[[], None]) -> Callable[[], None]:
    """A check that holds the engine up at the third token: the first look is before the question."""
    calls = iter(range(10**6))
    return lambda: hold() if next(calls) == 3 else None


def test_a_closed_engine_gives_the_models_memory_back() -> None:
    loaded = load_model(DEMO_FOLDER)
    watched = [weakref.ref(parameter) for parameter in loaded.model.parameters()]
    engine = Engine(loaded, replace(TOGETHER, wait_seconds=0))
    engine.ask(requests()[0])

    del loaded
    engine.close()
    gc.collect()

    assert [ref for ref in watched if ref() is not None] == []
