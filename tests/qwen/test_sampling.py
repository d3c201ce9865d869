from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vlyard.errors import InvalidInput
from workers.qwen.sampling import GREEDY, Choice, Sampling, Voice, seeded

CPU = torch.device("cpu")
ASKED = torch.tensor([3, 5, 5, 8])
VOCABULARY = 40


def voice(sampling: Sampling, spoken: Sequence[int] = ()) -> Voice:
    return Voice(sampling, seeded(sampling, CPU), ASKED, spoken)


def choice(*voices: Voice) -> Choice:
    return Choice(voices, torch.Generator().manual_seed(0), VOCABULARY)


def scores(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, VOCABULARY), generator=torch.Generator().manual_seed(seed)) * 3


WAYS = [
    Sampling(temperature=0.7, top_p=0.8, top_k=20, seed=1),
    Sampling(temperature=1.5, top_p=1.0, top_k=1_000, seed=2),
    Sampling(temperature=2.0, top_p=0.05, top_k=7, seed=3),
    Sampling(temperature=1.0, top_p=0.95, top_k=3, repetition_penalty=1.4, seed=4),
    Sampling(temperature=1.1, top_p=0.9, top_k=40, repetition_penalty=0.8, seed=5),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_row_draws_what_transformers_own_processors_and_torchs_draw_give(way: Sampling) -> None:
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(way.repetition_penalty),
            TemperatureLogitsWarper(way.temperature),
            TopKLogitsWarper(way.top_k),
            TopPLogitsWarper(way.top_p),
        ]
    )
    generator = torch.Generator().manual_seed(way.seed or 0)
    row = choice(voice(way))
    said: Any = ASKED[None]
    for step in range(60):
        here: Any = scores(1, seed=step)
        odds = processors(said, here.clone()).softmax(dim=-1)
        expected: Any = torch.multinomial(odds, num_samples=1, generator=generator)

        tokens, _ = row.next(here)

        assert tokens.tolist() == expected[0].tolist()
        said = torch.cat([said, expected], dim=1)


def test_rows_choose_together_as_they_choose_alone() -> None:
    ways = [*WAYS, GREEDY, replace(GREEDY, presence_penalty=1.0), replace(GREEDY, frequency_penalty=-0.5)]
    alone = [choice(voice(way)) for way in ways]
    together = choice(*map(voice, ways))

    for step in range(40):
        here = scores(len(ways), seed=step)
        tokens, _ = together.next(here)
        assert tokens.tolist() == [row.next(here[at : at + 1])[0].item() for at, row in enumerate(alone)]


def test_the_likeliest_token_is_taken_without_sampling() -> None:
    here = scores(3)

    tokens, best = choice(voice(GREEDY), voice(GREEDY), voice(WAYS[0])).next(here)

    assert tokens[:2].tolist() == here[:2].argmax(dim=-1).tolist()
    assert best.tolist() == here.amax(dim=-1).tolist()


def test_presence_counts_once_and_frequency_every_time_and_the_question_never() -> None:
    flat = torch.zeros((1, VOCABULARY))
    flat[0, [3, 7, 9, 11]] = torch.tensor([4.0, 3.9, 3.7, 3.0])  # 3 is in the question
    presence = replace(GREEDY, presence_penalty=0.5)
    frequency = replace(GREEDY, frequency_penalty=0.5)

    def follow(sampling: Sampling, spoken: Sequence[int]) -> list[int]:
        row = choice(voice(sampling, spoken))
        return [int(row.next(flat)[0]) for _ in range(6)]

    # 4.0 and 3.9 and 3.7 less 0.5 each, once: then the first stays ahead of all
    assert follow(presence, []) == [3, 7, 9, 3, 3, 3]
    # each costs 0.5 for every time: 4.0 3.9 3.7 3.5 3.4 3.2
    assert follow(frequency, []) == [3, 7, 9, 3, 7, 9]
    assert follow(frequency, [3, 3]) == [7, 9, 7, 9, 3, 11]


def test_a_row_without_a_seed_draws_as_often_as_the_odds_say() -> None:
    here = torch.full((1, VOCABULARY), -torch.inf)
    here[0, :3] = torch.tensor([0.6, 0.3, 0.1]).log()
    row = choice(voice(Sampling(temperature=1.0, top_p=1.0, top_k=3)))

    drawn = torch.cat([row.next(here)[0] for _ in range(3_000)]).bincount() / 3_000

    torch.testing.assert_close(drawn, torch.tensor([0.6, 0.3, 0.1]), atol=0.04, rtol=0)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(seed=1), Sampling(repetition_penalty=1.1)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_are_told_for_their_row_alone(sampling: Sampling, bad: float) -> None:
    here = scores(2)
    here[1, 17] = bad

    _, best = choice(voice(sampling), voice(sampling)).next(here)

    assert best.isfinite().tolist() == [True, False]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"temperature": 0.0}, "/spec/temperature: it is 0.0"),
        ({"top_p": 1.2}, "/spec/top_p: it is 1.2"),
        ({"top_k": 0}, "/spec/top_k: it is 0"),
        ({"max_new_tokens": 0}, "/spec/max_new_tokens: it is 0"),
        ({"repetition_penalty": 0.0}, "/spec/repetition_penalty: it is 0.0"),
        ({"stop": ("",)}, "/spec/stop"),
    ],
)
def test_a_way_to_choose_that_is_none_is_refused(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        Sampling(**wrong)
