"""Having a model that is being trained answer held-out questions. It knows no schedule and no truth's form.

Answers are the likeliest tokens, so that asking draws no random numbers, and the training goes on as if nobody had.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch.nn.functional import pad

from vlyard.errors import OutOfMemory
from vlyard.jobs.training import Scores
from workers.qwen.grounding.scoring import score
from workers.qwen.loading import Model, Processor
from workers.qwen.memory import naming_out_of_memory
from workers.qwen.training.collating import IGNORED, Item, Samples

_AT_ONCE = 16  # questions
_ROOM = 64  # tokens that an answer may have beyond the longest true one


def score_held_out(model: Model, processor: Processor, samples: Samples, count: int) -> Scores:
    """Ask about the first `count` held-out samples, and say how well they were answered.

    Where memory runs out, half as many are asked at once. Raises `OutOfMemory` where one question is too many.
    """
    learns = model.training
    model.eval()
    try:
        answers, truths, at_once = [], [], _AT_ONCE
        left = range(min(count, len(samples)))
        while left:
            items = [_first_turn(samples[at], processor) for at in left[:at_once]]
            try:
                answers += naming_out_of_memory(partial(_answered, model, processor, items))
            except OutOfMemory:
                if len(items) == 1:
                    raise
                at_once = len(items) // 2
                continue
            truths += [_words(processor, item.labels[item.labels != IGNORED]) for item in items]
            left = left[len(items) :]
    finally:
        model.train(learns)
    return score(answers, truths)


def _first_turn(item: Item, processor: Processor) -> Item:
    """The sample up to the end of its first answer, with the pictures that were shown by then."""
    learned = (item.labels != IGNORED).int()
    begins = int(learned.argmax())
    length = int((learned[begins:] == 0).int().argmax()) or len(learned) - begins
    end = begins + length
    ids, labels = item.ids[:end], item.labels[:end]
    if item.pixels is None or item.grids is None:
        return Item(ids, labels, None, None)
    patches = int((ids == processor.image_token_id).sum()) * processor.image_processor.merge_size**2
    shown = int((item.grids.prod(dim=1).cumsum(0) <= patches).sum())
    return Item(ids, labels, item.pixels[:patches], item.grids[:shown]) if shown else Item(ids, labels, None, None)


def _answered(model: Model, processor: Processor, items: Sequence[Item]) -> list[str]:
    questions = [item.ids[item.labels == IGNORED] for item in items]
    longest = max(map(len, questions))
    device = model.device
    ids = torch.stack(
        [pad(each, (longest - len(each), 0), value=processor.tokenizer.pad_token_id) for each in questions]
    )
    real = torch.stack([pad(torch.ones_like(each), (longest - len(each), 0)) for each in questions])
    pixels = [item.pixels for item in items if item.pixels is not None]
    shown = {
        "pixel_values": torch.cat(pixels).to(device),
        "image_grid_thw": torch.cat([item.grids for item in items if item.grids is not None]).to(device),
        "mm_token_type_ids": (ids == processor.image_token_id).long().to(device),
    } if pixels else {}  # fmt: skip
    most = max(int((item.labels != IGNORED).sum()) for item in items) + _ROOM
    with torch.no_grad():
        said = model.generate(
            input_ids=ids.to(device), attention_mask=real.to(device), **shown, max_new_tokens=most, do_sample=False,
            temperature=None, top_p=None, top_k=None, use_cache=True,
        )  # fmt: skip
    return [_words(processor, each) for each in said[:, longest:]]


def _words(processor: Processor, tokens: torch.Tensor) -> str:
    return str(processor.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
