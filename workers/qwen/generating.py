"""Asking a loaded model one question. It knows no job, and not what the answer means.

1. encode the question   2. wait for the model's turn   3. generate, looking for a stop at every token   4. decode
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList

from vlyard.errors import Complaint, InvalidInput
from workers.qwen.inputs import Inputs, encode
from workers.qwen.loading import LoadedModel
from workers.qwen.memory import naming_out_of_memory
from workers.qwen.sampling import Sampling, processors

# Special tokens that mean something in an answer: Qwen2-VL's way to write a box. All others are left out.
_SPOKEN = ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")

_PATIENCE = 0.1  # seconds between two looks for a stop, while another request has the model


@dataclass(frozen=True)
class Generation:
    """What the model said."""

    text: str
    finish_reason: Literal["stop", "length"]  # the model ended its answer, or the answer was cut off
    prompt_tokens: int
    completion_tokens: int  # with the one that ends the answer
    seconds: float  # of generating alone


def ask(
    loaded: LoadedModel,
    picture: Image.Image,
    prompt: str,
    sampling: Sampling,
    check: Callable[[], None] = lambda: None,
) -> Generation:
    """Ask about an upright RGB picture. Safe to call from several threads: they take turns.

    `check` is called before every token and ends the work by raising; its exception comes out unchanged. Raises
    `InvalidInput` where the question is not valid or does not fit the model's context, and `OutOfMemory`.
    """
    inputs = encode(loaded.processor, picture, prompt)
    prompt_tokens = inputs["input_ids"].shape[1]
    room = loaded.model.config.text_config.max_position_embeddings - prompt_tokens
    if room < 1:
        raise InvalidInput(
            "The question does not fit the model",
            [Complaint("/spec/prompt", f"with the picture it has {prompt_tokens} tokens", f"shorten it by {1 - room}")],
        )
    limit = min(sampling.max_new_tokens, room)
    with _turn(loaded.turn, check):
        began = time.monotonic()
        tokens = naming_out_of_memory(lambda: _generate(loaded, inputs, sampling, limit, check))
        seconds = time.monotonic() - began
    ended = bool(tokens) and tokens[-1] in _terminators(loaded)
    return Generation(
        text=decode(loaded, tokens),
        finish_reason="stop" if ended else "length",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(tokens),
        seconds=seconds,
    )


class _Check(StoppingCriteria):
    """Never stops by itself, but calls somebody who may raise."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:  # noqa: ARG002
        self._check()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


@contextmanager
def _turn(lock: Lock, check: Callable[[], None]) -> Iterator[None]:
    check()
    while not lock.acquire(timeout=_PATIENCE):
        check()
    try:
        yield
    finally:
        lock.release()


def _generate(
    loaded: LoadedModel, inputs: Inputs, sampling: Sampling, limit: int, check: Callable[[], None]
) -> list[int]:
    """The new tokens alone."""
    with torch.inference_mode():
        sequence = loaded.model.generate(
            **{name: tensor.to(loaded.device) for name, tensor in inputs.items()},
            max_new_tokens=limit,
            # The choice is made by our processors; these switch off the checkpoint's own.
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            logits_processor=processors(sampling, loaded.device),
            stopping_criteria=StoppingCriteriaList([_Check(check)]),
        )  # (1, T + new)
    return [int(token) for token in sequence[0, inputs["input_ids"].shape[1] :]]


def _terminators(loaded: LoadedModel) -> tuple[int, ...]:
    ids = loaded.model.generation_config.eos_token_id
    return (ids,) if isinstance(ids, int) else tuple(ids or ())


def decode(loaded: LoadedModel, tokens: list[int]) -> str:
    """The text of tokens, without the special ones that end an answer or fill a row."""
    tokenizer = loaded.processor.tokenizer
    silent = set(tokenizer.all_special_ids) - set(tokenizer.convert_tokens_to_ids(list(_SPOKEN)))
    spoken = [token for token in tokens if token not in silent]
    text: str = tokenizer.decode(spoken, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")  # no database stores a NUL in a text
