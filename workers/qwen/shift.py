"""What the engine's own thread does: it takes questions into its batch and gives every row one token after the other.

Rows that have ended leave, and others join. What fails, fails whose fault it is, and the thread goes on.
"""

import traceback
from collections.abc import Callable, Sequence

import torch

from vlyard.errors import OutOfMemory
from workers.qwen.batch import Batch, text_device
from workers.qwen.companions import Size
from workers.qwen.desk import Desk, closed
from workers.qwen.features import FeatureCache
from workers.qwen.loading import LoadedModel
from workers.qwen.memory import naming_out_of_memory
from workers.qwen.ticket import Ticket

_JOIN_EVERY = 8  # tokens between two looks for questions that may join: each joining reads their prompts first
_DEAD_WEIGHT = 8  # rows that have ended leave the batch once they are this part of it: leaving copies the cache


def serve(loaded: LoadedModel, desk: Desk, features: FeatureCache) -> None:
    """Answer questions until the desk is closed. However it ends, nobody is left waiting."""
    shift = Shift(loaded, features, desk)
    try:
        with torch.inference_mode():
            while not desk.closed:
                shift.go_on()
    finally:
        desk.close()
        shift.dismiss()
        desk.dismiss()


class Company:
    """A batch, and the tickets of its rows: None where the row has ended."""

    def __init__(self, batch: Batch, tickets: Sequence[Ticket], terminators: frozenset[int]) -> None:
        self._batch, self._terminators = batch, terminators
        self._tickets: list[Ticket | None] = list(tickets)

    @property
    def tickets(self) -> list[Ticket]:
        """Those whose rows go on."""
        return [ticket for ticket in self._tickets if ticket]

    def sizes(self) -> list[Size]:
        """Each row takes as many places as the longest."""
        return [Size(self._batch.length, ticket.size.speaks) for ticket in self.tickets]

    def step(self) -> None:
        """One more token for every row."""
        tokens = self._batch.step()
        for at, token in enumerate(tokens):
            ticket = self._tickets[at]
            if ticket and ticket.hear(token, self._terminators):
                self._tickets[at] = None
        self.tidy(len(tokens) // _DEAD_WEIGHT)

    def let_go(self, rows: int) -> list[Ticket]:
        """Only so many of those that go on stay, the first ones; returns the others. `tidy` has to follow."""
        going_on = [at for at, ticket in enumerate(self._tickets) if ticket]
        leaving = [ticket for at in going_on[rows:] if (ticket := self._tickets[at])]
        for at in going_on[rows:]:
            self._tickets[at] = None
        return leaving

    @property
    def length(self) -> int:
        """Tokens of each row."""
        return self._batch.length

    def join(self, other: "Company") -> None:
        """Go on together with another, which is used up."""
        self.tidy(0)
        other.tidy(0)
        self._batch.join(other._batch)
        self._tickets += other._tickets

    def tidy(self, bearable: int) -> None:
        """Let rows that have ended leave, where there are more than so many."""
        if self._tickets.count(None) > bearable and self.tickets:
            self._batch.keep([row for row, ticket in enumerate(self._tickets) if ticket])
            self._tickets = list(self.tickets)


class Shift:
    """The engine's rows over time."""

    def __init__(self, loaded: LoadedModel, features: FeatureCache, desk: Desk) -> None:
        self._loaded, self._features, self._desk = loaded, features, desk
        ends = loaded.model.generation_config.eos_token_id
        self._terminators = frozenset([ends] if isinstance(ends, int) else ends or [])
        self._shared = torch.Generator(text_device(loaded))
        self._shared.seed()
        self._company: Company | None = None
        self._fresh: Company | None = None  # that has had its first tokens, and is about to join
        self._steps = 0

    def go_on(self) -> None:
        """One more token for every row, and now and then new rows."""
        if self._steps % _JOIN_EVERY == 0 or self._company is None:
            if self._company:
                self._attempt([], self._make_room)
            self._take_in()
        if self._company:
            self._attempt([], self._company.step)
        if self._company and not self._company.tickets:
            self._company = None
        self._steps += 1

    def dismiss(self) -> None:
        """Tell everybody that the engine is closed."""
        for ticket in self._running():
            ticket.settle(closed())
        self._company = None

    def _take_in(self) -> None:
        if any(ticket.alone for ticket in self._running()):
            return
        newcomers = self._desk.take(self._company.sizes() if self._company else [])
        if not newcomers:
            return
        self._attempt(newcomers, lambda: self._begin(newcomers))
        if self._fresh and self._fresh.tickets:
            self._attempt([], self._join, also=self._fresh.tickets)
        self._fresh = None

    def _begin(self, newcomers: Sequence[Ticket]) -> None:
        """Read their questions, and give them their first tokens."""
        for ticket in newcomers:
            ticket.come_in(len(newcomers) + len(self._running()))
        batch = Batch(self._loaded, [ticket.row for ticket in newcomers], self._features, self._shared)
        company = Company(batch, newcomers, self._terminators)
        company.step()
        self._fresh = company

    def _make_room(self) -> None:
        """Where answers became longer than was expected, the last who came go on later."""
        assert self._company
        rows = self._desk.rows_for(self._company.length + _JOIN_EVERY)
        if leaving := self._company.let_go(rows):
            self._desk.put_back_for_room(leaving)
            self._company.tidy(0)

    def _join(self) -> None:
        """From now on all go on together."""
        assert self._fresh
        if self._company:
            self._company.join(self._fresh)
        else:
            self._company = self._fresh

    def _running(self) -> list[Ticket]:
        return self._company.tickets if self._company else []

    def _attempt(self, newcomers: Sequence[Ticket], work: Callable[[], None], also: Sequence[Ticket] = ()) -> None:
        """Do it. Where it fails, that concerns the newcomers; or without newcomers all that run, and `also` these.

        Of several nobody knows whose fault it is: they begin anew, in halves where memory ran out and else one by one.
        """
        try:
            naming_out_of_memory(work)
        except OutOfMemory as error:
            concerned, others = self._let_go(newcomers, also)
            if len(concerned) + others > 1:
                self._desk.put_back(concerned, others + len(concerned) // 2)
                return
            failure: BaseException = error
        except BaseException as error:  # noqa: BLE001 - whatever it is, everybody hears of it and the thread lives
            concerned, _ = self._let_go(newcomers, also)
            traceback.clear_frames(error.__traceback__)  # they hold the batch's memory
            if len(concerned) > 1:
                self._desk.put_back_alone(concerned)
                return
            failure = error
        else:
            return
        for ticket in concerned:
            ticket.settle(failure)

    def _let_go(self, newcomers: Sequence[Ticket], also: Sequence[Ticket]) -> tuple[list[Ticket], int]:
        """Those whom a failure concerns and who have no answer yet, and how many others run."""
        if newcomers:
            return [ticket for ticket in newcomers if not ticket.over], len(self._running())
        concerned = [ticket for ticket in (*self._running(), *also) if not ticket.over]
        self._company = None
        return concerned, 0
