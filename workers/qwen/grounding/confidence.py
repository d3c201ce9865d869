"""How sure a model was of each box that it named. It knows an answer's tokens and no model.

A language model says no confidence with a box, but it says every digit of its corners with a probability. A box's
confidence is the geometric mean of these, exp(mean log-probability), of the digits of its four coordinates alone:
- digits, because the words and brackets around them are all but certain in every answer, and would hide the doubt;
- the mean, because a box with coordinates of three digits is not less likely to be right than one with two;
- not the label's tokens, since labels differ in length and in how many of them there are to choose from.
They are the model's own probabilities, before temperature and before anything was ruled out: after that, greedy
decoding gives every digit a probability of 1. Confidences rank boxes; they are no calibrated odds of being right.
"""

import re
from collections.abc import Iterator, Sequence
from math import exp
from typing import NamedTuple, Protocol

from vlyard.formats.answer import parse_answer

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)
_DIGIT = re.compile(r"[0-9]")
_NONE = 0.0  # of a box whose numbers are not in the text as they are: it ranks last


class Piece(Protocol):
    """A token of an answer: the engine's."""

    @property
    def text(self) -> str: ...

    @property
    def logprob(self) -> float: ...


class _Number(NamedTuple):
    value: float
    digits: range  # which digits of the answer, from the first one


def box_confidences(text: str, pieces: Sequence[Piece]) -> list[float]:
    """Of each box that `parse_answer(text)` finds, in its order, 0..1; `pieces` are the answer's tokens.

    A box whose numbers do not stand in the text, or whose tokens are not there, has 0.
    """
    logprobs = list(_of_digits(pieces))
    numbers = list(_numbers(text))
    found, begin = [], 0
    for each in parse_answer(text).boxed:
        at = _find(each.box.corners, numbers, begin)
        if at is None:
            found.append(_NONE)
            continue
        begin = at + 4
        said = [logprobs[digit] for number in numbers[at:begin] for digit in number.digits if digit < len(logprobs)]
        found.append(exp(sum(said) / len(said)) if said else _NONE)
    return found


def _of_digits(pieces: Sequence[Piece]) -> Iterator[float]:
    """For each digit of the answer the log-probability of its token.

    Only digits are counted off against the text: they are one byte each, so that letters of which tokens hold parts,
    and special tokens that no text shows, do not move them. In Qwen's vocabulary every digit is a token of its own.
    """
    for piece in pieces:
        for _ in _DIGIT.finditer(piece.text):
            yield piece.logprob


def _numbers(text: str) -> Iterator[_Number]:
    """The numbers in a text; a digit inside a word is no number, and counts as a digit all the same."""
    passed, before = 0, 0
    for match in _NUMBER.finditer(text):
        passed += len(_DIGIT.findall(text[before : match.start()]))
        own = len(_DIGIT.findall(match[0]))
        yield _Number(float(match[0]), range(passed, passed + own))
        passed, before = passed + own, match.end()


def _find(corners: tuple[float, ...], numbers: Sequence[_Number], begin: int) -> int | None:
    """Where four numbers in a row are the corners, swapped or not; boxes come in the text's order."""
    for at in range(begin, len(numbers) - 3):
        x1, y1, x2, y2 = (number.value for number in numbers[at : at + 4])
        if (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) == corners:
            return at
    return None
