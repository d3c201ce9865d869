"""How long answers will be, as far as earlier ones tell. It knows no model and no question, only what questions are
called alike.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable

_LATEST = 32  # answers that are remembered of questions that are alike
_ENOUGH = 4  # of them tell something
_MARGIN = 1.25  # longer than the longest of them
_ALIKE = 1_000  # kinds of questions that are remembered


class Lengths:
    """Tokens of the latest answers to each kind of question. Safe to use from any number of threads."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Hashable, deque[int]] = OrderedDict()  # the longest unused first
        self._lock = threading.Lock()

    def note(self, alike: Hashable, tokens: int) -> None:
        """An answer to such a question had so many tokens."""
        with self._lock:
            self._seen.setdefault(alike, deque(maxlen=_LATEST)).append(tokens)
            self._seen.move_to_end(alike)
            if len(self._seen) > _ALIKE:
                self._seen.popitem(last=False)

    def expected(self, alike: Hashable, limit: int, spoken: int) -> int:
        """How many tokens an answer will have that has so many by now, and may have `limit`.

        Where too few are known it is the limit. One that outgrew what was expected is taken to be half done.
        """
        with self._lock:
            seen = self._seen.get(alike, ())
            longest = max(seen) if len(seen) >= _ENOUGH else limit
        expected = int(longest * _MARGIN)
        return min(limit, expected if expected > spoken else 2 * spoken + 1)
