"""How the next token is chosen. It knows no text and no model.

Every request draws from a generator of its own. Torch's global one is shared by all threads of a process, so that a
seed would mean nothing while another request is under way.
"""

from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Sampling:
    """Which answer is taken of all that are possible, and how long it may be."""

    max_new_tokens: int = 128
    do_sample: bool = True  # False takes the likeliest token each time, and the rest but the length means nothing
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    seed: int | None = None  # None: a different answer each time


GREEDY = Sampling(do_sample=False)


class Draw(LogitsProcessor):
    """Leaves only the token that was drawn, so that the likeliest one is it. Rows are requests, V is the vocabulary."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:  # noqa: ARG002
        """`scores` (B, V), fp32; returns (B, V) with 0 for the drawn token of each row and -inf for all others."""
        drawn = torch.multinomial(scores.softmax(dim=-1), num_samples=1, generator=self._generator)  # (B, 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)  # type: ignore[return-value]


def processors(sampling: Sampling, device: torch.device) -> LogitsProcessorList:
    """What turns the model's scores into a choice: in transformers' order, temperature, top-k, top-p, then the draw.

    With a seed the tokens are those of `torch.manual_seed(seed); model.generate(do_sample=True, …)`.
    """
    if not sampling.do_sample:
        return LogitsProcessorList()
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(sampling.temperature),
            TopKLogitsWarper(sampling.top_k),
            TopPLogitsWarper(sampling.top_p),
            Draw(generator),
        ]
    )
