"""How sure a model was of a box: the probabilities of its coordinates' digits, and of nothing else."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import exp, log

import pytest
import torch

from vlyard.demo.shapes import draw_scenes
from vlyard.formats.answer import parse_answer
from vlyard.jobs.conversion import DEFAULT_PROMPT
from workers.qwen.engine import Engine, Generation, Limits, Piece
from workers.qwen.grounding.confidence import box_confidences
from workers.qwen.grounding.scoring import score
from workers.qwen.loading import LoadedModel
from workers.qwen.request import Request, Turn
from workers.qwen.sampling import GREEDY, Sampling

ANSWER = '[{"bbox_2d": [1, 2, 30, 40], "label": "car 7"}, {"bbox_2d": [5, 6, 7, 8], "label": "b"}]'


def letters(text: str, odds: dict[int, float]) -> list[Piece]:
    """A token for each letter; the odds of those at some places, and near 1 elsewhere."""
    return [Piece(letter, log(odds.get(at, 0.999))) for at, letter in enumerate(text)]


def test_it_is_the_geometric_mean_over_the_boxs_own_digits() -> None:
    first, second = ANSWER.index("1,"), ANSWER.index("5,")
    label = ANSWER.index("7")  # of `car 7`

    sure = box_confidences(ANSWER, letters(ANSWER, {first: 0.5, second: 0.2, label: 0.01}))

    assert sure == pytest.approx([(0.5 * 0.999**5) ** (1 / 6), (0.2 * 0.999**3) ** (1 / 4)], abs=1e-6)


def test_longer_numbers_do_not_make_a_box_less_sure() -> None:
    texts = ['[{"bbox_2d": [1, 2, 3, 4], "label": "a"}]', '[{"bbox_2d": [100, 200, 300, 400], "label": "a"}]']

    [short], [long] = (box_confidences(text, [Piece(letter, log(0.5)) for letter in text]) for text in texts)

    assert short == pytest.approx(long) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text",
    [
        "Car2 is here: ```json\n" + ANSWER + "\n```",
        ANSWER.replace("[1, 2, 30, 40]", "[30, 40, 1, 2]"),  # swapped corners
        ANSWER.replace("[1, 2, 30, 40]", '"1, 2, 30, 40"'),
        ANSWER[:-3],  # broken off
        "<|object_ref_start|>a1<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|><|box_start|>(5,6),(7,8)<|box_end|>",
    ],
)
def test_boxes_are_found_however_the_answer_is_written(text: str) -> None:
    at = text.index("3")
    sure = box_confidences(text, letters(text, {at: 0.25}))

    assert len(parse_answer(text).boxed) == len(sure) == 2
    assert sure[0] == pytest.approx(0.25 ** (1 / 6), abs=0.01)
    assert sure[1] > 0.99


def test_letters_that_are_spread_over_tokens_and_special_tokens_move_nothing() -> None:
    text = '[{"bbox_2d": [1, 2, 3, 4], "label": "\N{OWL}"}, {"bbox_2d": [5, 6, 7, 8], "label": "b"}]'
    at = text.index("\N{OWL}")
    parts = [*letters(text[:at], {}), *[Piece("\N{REPLACEMENT CHARACTER}", log(0.3))] * 4, Piece("", log(0.1))]

    sure = box_confidences(text, [*parts, *letters(text[at + 1 :], {}), Piece("", 0.0)])

    assert sure == pytest.approx([0.999, 0.999])


def test_several_digits_in_one_token_share_its_probability() -> None:
    text = '[{"bbox_2d": [12, 2, 34, 4], "label": "a"}]'
    pieces = [Piece('[{"bbox_2d": [', 0.0), Piece("12", log(0.25)), *(Piece(letter, 0.0) for letter in text[16:])]

    assert box_confidences(text, pieces) == pytest.approx([0.25 ** (2 / 6)])


def test_a_box_without_tokens_is_the_least_sure() -> None:
    assert box_confidences(ANSWER, []) == [0.0, 0.0]


# --- from the engine ------------------------------------------------------------------------------------------


def ask(loaded: LoadedModel, *, count: int = 1, rows: int = 1, sampling: Sampling = GREEDY) -> list[Generation]:
    requests = [
        Request((Turn("user", (scene.picture, DEFAULT_PROMPT)),), sampling, scored=True)
        for scene in islice(draw_scenes(5), count)
    ]
    engine = Engine(loaded, Limits(batch_tokens=2**20, batch_rows=rows, wait_seconds=0.05, feature_bytes=2**20))
    try:
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(engine.ask, requests))
    finally:
        engine.close()


def test_the_engine_tells_the_models_own_log_probability_of_every_token(demo: LoadedModel) -> None:
    sampling = Sampling(temperature=2.0, top_k=3, seed=4, repetition_penalty=1.3, max_new_tokens=12)

    [said] = ask(demo, sampling=sampling)

    assert said.pieces is not None
    [scene] = islice(draw_scenes(5), 1)
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": scene.picture}, {"type": "text", "text": DEFAULT_PROMPT}],
        }
    ]
    inputs = demo.processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    spoken = tokens_of(demo, said)
    whole = torch.cat([inputs["input_ids"], spoken[None]], dim=1)
    kinds = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(spoken[None])], dim=1)
    with torch.inference_mode():
        logits = demo.model(
            input_ids=whole,
            mm_token_type_ids=kinds,
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
        ).logits[0, inputs["input_ids"].shape[1] - 1 : -1]
    expected = logits.float().log_softmax(-1).gather(-1, spoken[:, None])[:, 0]
    assert [piece.logprob for piece in said.pieces] == pytest.approx(expected.tolist(), abs=1e-3)


def tokens_of(demo: LoadedModel, said: Generation) -> torch.Tensor:
    vocabulary = demo.processor.tokenizer
    assert said.pieces is not None
    ids = [
        vocabulary.encode(piece.text, add_special_tokens=False) or [vocabulary.eos_token_id] for piece in said.pieces
    ]
    assert all(len(each) == 1 for each in ids)
    return torch.tensor([each[0] for each in ids])


def test_who_does_not_ask_for_them_gets_none(demo: LoadedModel) -> None:
    engine = Engine(demo, Limits(batch_tokens=2**20, batch_rows=1, wait_seconds=0, feature_bytes=0))
    try:
        said = engine.ask(Request((Turn("user", ("Where?",)),), Sampling(do_sample=False, max_new_tokens=2)))
    finally:
        engine.close()

    assert said.pieces is None


def test_figures_and_confidences_do_not_depend_on_the_size_of_the_batch(demo: LoadedModel) -> None:
    truths = [
        f'[{{"bbox_2d": {list(scene.box.to_thousand())}, "label": "{scene.label}"}}]'
        for scene in islice(draw_scenes(5), 6)
    ]

    alone, together = ask(demo, count=6, rows=1), ask(demo, count=6, rows=6)

    assert max(said.rows for said in alone) == 1 < max(said.rows for said in together)
    assert score([said.text for said in alone], truths) == score([said.text for said in together], truths)
    assert score([said.text for said in alone], truths).f1 > 0.8
    for one, other in zip(alone, together, strict=True):
        assert one.pieces
        assert other.pieces
        sure = box_confidences(one.text, one.pieces)
        assert sure == pytest.approx(box_confidences(other.text, other.pieces), abs=1e-3)
        assert all(0 < each <= 1 for each in sure)
        assert exp(sum(piece.logprob for piece in one.pieces)) < min(sure, default=1)
