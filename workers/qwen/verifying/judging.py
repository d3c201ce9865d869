"""How close two models' answers to the same questions have to be. It runs no model.

Computing in the same type, a merged model and its base with the adapter beside it differ only in the order of adding,
and in what one rounding of the merged weights to the type that they are stored in costs. How much that is, was measured
on the demo model with random adapters; what is allowed is several times as much, and a wrong tensor is far beyond.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from vlyard.errors import Complaint
from vlyard.formats.answer import parse_answer
from workers.qwen.grounding.matching import match_by_overlap
from workers.qwen.grounding.objects import things
from workers.qwen.verifying.answers import Answered, Question

_FIX = "export it again"


class Bound(NamedTuple):
    """How far an export may be from what it was made of."""

    logits: float  # the largest difference of two logits, as a part of the spread of all for that token
    iou: float  # the mean over the boxes, matched one to one


BOUNDS: Mapping[str, Bound] = {
    "fp32": Bound(1e-4, 0.99),
    "fp16": Bound(0.02, 0.9),
    "bf16": Bound(0.1, 0.8),
    "int8": Bound(0.2, 0.8),
    "int4": Bound(0.5, 0.5),
}


_COMPUTED: Mapping[torch.dtype, str] = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def bound_of(stored: str, computed: torch.dtype) -> Bound:
    """How far an export may be whose weights are stored so, and that computes in that type: the coarser of both counts.

    `stored` is one of `BOUNDS`, or `mixed`. Quantised weights are computed with in their own types.
    """
    kinds = (stored if stored in BOUNDS else "bf16", _COMPUTED.get(computed, "bf16"))
    return max((BOUNDS[kind] for kind in kinds), key=lambda bound: bound.logits)


@dataclass(frozen=True)
class Judged:
    """What the comparison came to."""

    complaints: Sequence[Complaint]
    logits: float  # the largest absolute difference
    same: int  # questions with the same words as answer
    boxes: int
    mean_iou: float | None


def judge(questions: Sequence[Question], given: Sequence[Answered], made: Sequence[Answered], bound: Bound) -> Judged:
    """Compare the answers of an export with those that it has to give."""
    trios = list(zip(questions, given, made, strict=True))
    complaints = list(_read_otherwise(trios)) or list(_apart(trios, bound))
    overlaps = [overlap for _, first, second in trios for overlap in _overlaps(first.text, second.text)]
    mean = sum(overlaps) / len(overlaps) if overlaps else None
    if not complaints and mean is not None and mean < bound.iou:
        what = f"the mean IoU of its boxes with those of the model that it was made of is {mean:.3f}, not {bound.iou}"
        complaints = [Complaint("boxes", what, _FIX)]
    same_size = [(first, second) for _, first, second in trios if first.logits.shape == second.logits.shape]
    return Judged(
        complaints,
        logits=max((float((a.logits - b.logits).abs().max()) for a, b in same_size if a.logits.numel()), default=0.0),
        same=sum(first.text == second.text for _, first, second in trios),
        boxes=len(overlaps),
        mean_iou=mean,
    )


def _read_otherwise(trios: Sequence[tuple[Question, Answered, Answered]]) -> Iterator[Complaint]:
    for question, first, second in trios:
        if not torch.equal(first.ids, second.ids):
            what = f"the question becomes {len(second.ids)} tokens, and not the {len(first.ids)} that it was trained on"
            yield Complaint(question.name, what, "export it again, with its chat template and its tokenizer")
        elif first.pixels.shape != second.pixels.shape:
            what = f"the picture becomes {len(second.pixels)} patches, and not {len(first.pixels)}"
            yield Complaint(question.name, what, "export it again, with the pixel budget of its training")
        elif not torch.equal(first.pixels, second.pixels):
            yield Complaint(question.name, "the picture becomes other numbers", "export it again, with its processor")


def _apart(trios: Sequence[tuple[Question, Answered, Answered]], bound: Bound) -> Iterator[Complaint]:
    for question, first, second in trios:
        if not first.logits.numel():
            continue
        spread = first.logits.amax(-1) - first.logits.amin(-1)
        share = float(((first.logits - second.logits).abs().amax(-1) / spread.clamp_min(1e-12)).max())
        if not share <= bound.logits:  # also where it is no number
            what = f"its logits are {share:.2g} of their spread away, and {bound.logits} are allowed"
            yield Complaint(question.name, what, _FIX)


def _overlaps(given: str, made: str) -> Iterator[float]:
    """The IoU of each box of the first answer with the one of the second that it is matched with; 0 for one alone."""
    truth, found = things(parse_answer(given)), things(parse_answer(made))
    pairs = {pair.truth: pair.iou for pair in match_by_overlap(truth, found)}
    yield from (pairs.get(at, 0.0) for at in range(len(truth)))
    yield from (0.0 for _ in range(len(found) - len(pairs)))
