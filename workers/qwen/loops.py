"""Hearing that an answer only repeats itself. It knows tokens as numbers, and no text."""

from collections.abc import Sequence

LOOK_EVERY = 16  # tokens between two looks; one look costs as much as choosing a few tokens
# Long enough for what really is the same again and again (an empty table's cells, a ruled line, a few equal boxes),
# and short beside what a loop costs: it goes on until the limit of tokens.
_TIMES, _TOKENS = 4, 192
_MEMORY = 1024  # tokens that are looked at, so that a period has 256 at most


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether the last tokens are some words said at least four times in a row, and at least 192 tokens long.

    Read from its end, a text that begins with a long repetition has a long border: the longest part that is both
    its beginning and its end (Knuth, Morris and Pratt's failure function). O(tokens looked at).
    """
    if len(tokens) < _TOKENS:
        return False
    tail = list(reversed(tokens[-_MEMORY:]))
    borders = [0] * len(tail)
    border = 0
    for at in range(1, len(tail)):
        while border and tail[at] != tail[border]:
            border = borders[border - 1]
        border += tail[at] == tail[border]
        borders[at] = border
        period = at + 1 - border
        if at + 1 >= max(_TOKENS, _TIMES * period):
            return True
    return False
