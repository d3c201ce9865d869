"""One question on its way through the engine: what its caller hears of it, and when it ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal, NamedTuple, TypeAlias

from vlyard.errors import Cancelled, InvalidInput
from workers.qwen.batch import Row
from workers.qwen.companions import Size
from workers.qwen.loops import LOOK_EVERY, repeats_itself
from workers.qwen.words import Transcript

# It ended by itself, was cut off, only repeated itself, or nobody wants it any more.
Reason: TypeAlias = Literal["stop", "length", "loop", "cancelled"]


class Ended(NamedTuple):
    """How an answer ended."""

    reason: Reason
    tokens: list[int]
    moment: float


@dataclass
class Ticket:
    """What the engine's thread and the caller's share. The thread writes, the caller reads when `inbox` says so."""

    row: Row
    limit: int  # of the answer's tokens
    check: Callable[[], None]  # raises to end the work
    transcript: Transcript | None  # where words may end the answer or somebody hears them as they come
    listened: bool
    expected: Callable[[int], int]  # tokens of the answer, as far as anybody knows once it has so many
    arrived: float = field(default_factory=time.monotonic)
    began: float | None = None  # when it came into a batch
    first: float | None = None  # when its first token came
    rows: int = 0  # of the batch that it began in
    waiting: bool = True  # at the desk, where its caller looks for a stop: in a batch the engine's thread does
    over: bool = False  # it has its answer, or its caller has gone
    alone: bool = False  # something failed in its company, so that it goes on without any
    # Pieces of the answer and then what becomes of it; an empty piece where it went back to the desk.
    inbox: SimpleQueue[str | Ended | BaseException] = field(default_factory=SimpleQueue)

    @property
    def size(self) -> Size:
        spoken = len(self.row.spoken)
        return Size(self.row.length, self.expected(spoken) - spoken)

    def come_in(self, rows: int) -> None:
        """It is in a batch of so many rows. Where a batch has to begin anew, the first time counts."""
        self.waiting = False
        if self.began is None:
            self.began, self.rows = time.monotonic(), rows

    def go_back(self) -> None:
        """It is at the desk again."""
        self.waiting = True
        self.inbox.put("")

    def look(self) -> None:
        """Where it waits, hear whether it is to stop. Raises what `check` raises, but for a `Cancelled` once the answer
        has begun: that ends it with the words so far.
        """
        try:
            self.check()
        except Cancelled:
            if self.first is None:
                raise
            if self.transcript:
                self.transcript.end()
            self.settle(Ended("cancelled", list(self.row.spoken), time.monotonic()))

    def hear(self, token: int | None, terminators: frozenset[int]) -> bool:
        """The row has one more token. Returns whether the row has ended."""
        if self.first is None:
            self.first = time.monotonic()
        if self.over:
            return True
        try:
            reason = self._ending(token, terminators)
        except BaseException as error:  # noqa: BLE001 - it is the caller's own, and comes out there unchanged
            self.settle(error)
            return True
        if self.transcript and reason:
            self.transcript.end()
        if self.listened and self.transcript and (words := self.transcript.news(last=reason is not None)):
            self.inbox.put(words)
        if reason:
            self.settle(Ended(reason, list(self.row.spoken), time.monotonic()))
        return reason is not None

    def settle(self, outcome: Ended | BaseException) -> None:
        """That is what becomes of it."""
        self.over = True
        self.inbox.put(outcome)

    def _ending(self, token: int | None, terminators: frozenset[int]) -> Reason | None:
        try:
            self.check()
        except Cancelled:
            return "cancelled"
        if token is None:
            raise InvalidInput(
                "the model's weights or this input give no numbers (NaN or infinity): ask something else, or "
                "copy the model again"
            )
        if token in terminators:
            return "stop"
        if self.transcript:
            self.transcript.add(token)
            if self.transcript.stopped:
                return "stop"
        spoken = self.row.spoken
        if len(spoken) >= self.limit:
            return "length"
        return "loop" if len(spoken) % LOOK_EVERY == 0 and repeats_itself(spoken) else None
