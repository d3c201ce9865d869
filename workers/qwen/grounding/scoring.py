"""Precision, recall, F1 and mean IoU of answers beside their truth. It knows no model and no file.

All are micro-averages: objects are counted over all pictures, and a figure is a ratio of counts. A ratio of nothing
is 0. The mean IoU is that of every true object with its box in the matching by overlap, 0 where it has none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum

from vlyard.formats.answer import Note, parse_answer
from vlyard.jobs.training import Scores
from workers.qwen.grounding.matching import Pair, match, match_by_overlap
from workers.qwen.grounding.objects import Thing, things

THRESHOLDS = (0.5, 0.75)


@dataclass(frozen=True)
class Judged:
    """One question: what is there, what was found, and which is which."""

    truth: tuple[Thing, ...]
    found: tuple[Thing, ...]
    ignore_labels: bool = False

    @cached_property
    def pairs(self) -> Mapping[float, Sequence[Pair]]:
        """The matching at each threshold."""
        return {each: match(self.truth, self.found, each, ignore_labels=self.ignore_labels) for each in THRESHOLDS}

    @cached_property
    def overlaps(self) -> Sequence[Pair]:
        """The matching by overlap."""
        return match_by_overlap(self.truth, self.found, ignore_labels=self.ignore_labels)

    def tally(self, threshold: float) -> "Tally":
        """What it counts for."""
        overlap = fsum(sorted(pair.iou for pair in self.overlaps))
        return Tally(len(self.truth), len(self.found), len(self.pairs[threshold]), overlap)


@dataclass(frozen=True)
class Tally:
    """Counts of objects, and the ratios that they make."""

    truth: int
    found: int
    right: int  # true positives
    overlap: float  # the sum of IoU over true objects

    @property
    def precision(self) -> float:
        return ratio(self.right, self.found)

    @property
    def recall(self) -> float:
        return ratio(self.right, self.truth)

    @property
    def f1(self) -> float:
        return ratio(2 * self.right, self.found + self.truth)

    @property
    def mean_iou(self) -> float:
        return ratio(self.overlap, self.truth)


def total(tallies: Iterable[Tally]) -> Tally:
    """All together, in whatever order: the sum of IoU is exact before it is rounded."""
    those = list(tallies)
    return Tally(
        sum(each.truth for each in those),
        sum(each.found for each in those),
        sum(each.right for each in those),
        fsum(each.overlap for each in those),
    )


def ratio(part: float, whole: float) -> float:
    """A part of the whole; 0 of nothing."""
    return part / whole if whole else 0.0


def score(answers: Sequence[str], truths: Sequence[str]) -> Scores:
    """How well questions were answered, at an IoU of 0.5. Both are texts, one of each for every question.

    Raises `ValueError` where there are more of one than of the other.
    """
    said = [parse_answer(answer) for answer in answers]
    there = [parse_answer(truth) for truth in truths]
    judged = [Judged(things(right), things(answer)) for right, answer in zip(there, said, strict=True)]
    whole = total(each.tally(THRESHOLDS[0]) for each in judged)
    failures = sum(Note.NOTHING_FOUND in answer.notes for answer in said)
    return Scores(
        samples=len(judged),
        precision=whole.precision,
        recall=whole.recall,
        f1=whole.f1,
        mean_iou=whole.mean_iou,
        parse_failures=ratio(failures, len(judged)),
    )
