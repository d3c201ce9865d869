"""How the next token of each row of a batch is chosen. It knows no text and no model.

Every row that has a seed draws from a generator of its own: torch's global one is shared by all threads of a process,
and a batch's would give other answers in other company.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from vlyard.errors import Complaint, InvalidInput


@dataclass(frozen=True)
class Sampling:
    """Which answer is taken of all that are possible, and how long it may be."""

    max_new_tokens: int = 128
    do_sample: bool = True  # False takes the likeliest token each time; temperature, top_p, top_k, seed mean nothing
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    repetition_penalty: float = 1.0  # divides the scores of what question and answer have; transformers' and CTRL's
    presence_penalty: float = 0.0  # subtracted from the scores of what the answer has; OpenAI's
    frequency_penalty: float = 0.0  # the same, as many times as the answer has it; OpenAI's
    stop: tuple[str, ...] = ()  # words that end the answer and are no part of it
    seed: int | None = None  # None: a different answer each time

    def __post_init__(self) -> None:
        """Raises `InvalidInput` where nothing can be chosen that way."""
        wrong = [Complaint(f"/spec/{name}", f"it is {getattr(self, name)!r}", fix) for name, fix in self._wrong()]
        if wrong:
            raise InvalidInput("The sampling is not valid", wrong)

    def _wrong(self) -> Iterator[tuple[str, str]]:
        if self.max_new_tokens < 1:
            yield "max_new_tokens", "ask for 1 token at least"
        if self.temperature <= 0:
            yield "temperature", "above 0, or do_sample false for the likeliest tokens"
        if not 0 < self.top_p <= 1:
            yield "top_p", "above 0, and 1 at most"
        if self.top_k < 1:
            yield "top_k", "1 at least"
        if self.repetition_penalty <= 0:
            yield "repetition_penalty", "above 0"
        if "" in self.stop:
            yield "stop", "leave out the empty word"


GREEDY = Sampling(do_sample=False)


class Voice(NamedTuple):
    """One row's way to choose, and what it has chosen."""

    sampling: Sampling
    generator: torch.Generator | None  # its own; None where it has no seed
    asked: torch.Tensor  # the question's tokens, (T,)
    spoken: Sequence[int]  # the answer's so far


def seeded(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    """The generator that a seed asks for."""
    wanted = sampling.do_sample and sampling.seed is not None
    return torch.Generator(device).manual_seed(sampling.seed or 0) if wanted else None


class Choice:
    """Choosing for B rows of V tokens at once, each row in its own way.

    The steps and their order are those of transformers: repetition penalty, then vLLM's frequency and presence
    penalty, then temperature, top-k, top-p and the draw. With a seed a row's tokens are those of
    `torch.manual_seed(seed); model.generate(do_sample=True, …)` for that row alone. Only the K likeliest tokens are
    sorted, where K is the largest top-k of the rows.
    """

    def __init__(self, voices: Sequence[Voice], shared: torch.Generator, vocabulary: int) -> None:
        """`shared` is what rows without a seed draw from; its device is where the scores will be."""
        self._shared, device = shared, shared.device
        samplings = [voice.sampling for voice in voices]
        self._seeded = [(row, voice.generator) for row, voice in enumerate(voices) if voice.generator is not None]
        ranks = [min(each.top_k, vocabulary) if each.do_sample else 1 for each in samplings]
        self._candidates = max(ranks)
        # Columns (B, 1). The likeliest token of a greedy row is its only candidate, and stays so at temperature 1.
        self._rank = _column(ranks, device)
        self._temperature = _column([each.temperature if each.do_sample else 1.0 for each in samplings], device)
        self._tail = _column([1 - each.top_p if each.do_sample else 0.0 for each in samplings], device)
        self._penalties = Penalties(voices, device, vocabulary) if any(map(_penalised, samplings)) else None

    def next(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`logits` (B, V). Returns tokens (B,), and each row's best score (B,): no number where one is none."""
        scores = logits.float()
        if self._penalties:
            scores = self._penalties.apply(scores)
        if self._candidates == 1:
            best, tokens = scores.max(dim=-1)
        else:
            best, tokens = self._draw(scores)
        if self._penalties:
            self._penalties.count(tokens)
        return tokens, best

    def _draw(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        likeliest, ids = scores.topk(self._candidates)  # (B, K), descending
        ids = ids.flip(-1)  # ascending, as transformers sorts for top-p, so that sums round alike
        behind = torch.arange(self._candidates - 1, -1, -1, device=scores.device)  # how many are likelier
        values = (likeliest / self._temperature).flip(-1).masked_fill(behind >= self._rank, -torch.inf)
        tail = values.softmax(dim=-1).cumsum(dim=-1) <= self._tail
        tail[:, -1] = False  # one is left at least
        odds = values.masked_fill(tail, -torch.inf).softmax(dim=-1)
        # torch.multinomial's own way to draw one of many: the odds in a race of exponential clocks.
        drawn = (odds / self._clocks(scores, ids)).argmax(dim=-1, keepdim=True)
        return likeliest[:, 0], ids.gather(-1, drawn).squeeze(-1)

    def _clocks(self, scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Exponentially distributed times (B, K)."""
        clocks = torch.empty(ids.shape, dtype=torch.float32, device=scores.device)
        if len(self._seeded) < len(ids):
            clocks.exponential_(generator=self._shared)
        for row, generator in self._seeded:  # a clock for every token of the vocabulary, as torch.multinomial has it
            whole = torch.empty((1, scores.shape[-1]), dtype=torch.float32, device=scores.device)
            whole.exponential_(generator=generator)
            clocks[row] = whole[0, ids[row]]
        return clocks


class Penalties:
    """What question and answer hold makes tokens less likely, or more."""

    def __init__(self, voices: Sequence[Voice], device: torch.device, vocabulary: int) -> None:
        samplings = [voice.sampling for voice in voices]
        self._repetition = _column([each.repetition_penalty for each in samplings], device)
        self._presence = _column([each.presence_penalty for each in samplings], device)
        self._frequency = _column([each.frequency_penalty for each in samplings], device)
        asked = [_counts(voice.asked, vocabulary) for voice in voices]
        self._asked = torch.stack(asked).to(device) > 0  # (B, V)
        self._spoken = torch.stack([_counts(voice.spoken, vocabulary) for voice in voices]).to(device)  # (B, V)

    def apply(self, scores: torch.Tensor) -> torch.Tensor:
        """`scores` (B, V) in fp32; returns others, (B, V)."""
        said = self._spoken > 0
        repeated = torch.where(scores < 0, scores * self._repetition, scores / self._repetition)
        scores = torch.where(self._asked | said, repeated, scores)
        return scores - self._frequency * self._spoken - self._presence * said

    def count(self, tokens: torch.Tensor) -> None:
        """These were chosen, (B,)."""
        self._spoken.scatter_add_(1, tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.float32))


def _penalised(sampling: Sampling) -> bool:
    return (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1.0, 0.0, 0.0)


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    # Named: while another model is loaded, transformers changes torch's default dtype for all threads.
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]


def _counts(tokens: Sequence[int] | torch.Tensor, vocabulary: int) -> torch.Tensor:
    return torch.bincount(torch.as_tensor(tokens, dtype=torch.long), minlength=vocabulary).float()
