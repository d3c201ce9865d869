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
# Whoever leaves has the cache of all who stay copied. So a row that has ended stays for whoever joins to take its
# place, and rows leave once they are this part of the batch,
_DEAD_WEIGHT = 1 / 8
_DEAD_BURDEN = 1 / 2  # or at once where they are more of it than this.
_DEAD_LENGTH = 1 / 4  # The same holds for places before the first that a row uses, which grow where seats are taken.


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
        if self._tickets.count(None) > len(tokens) * _DEAD_BURDEN:
            self.compact()

    def let_go(self, rows: int) -> list[Ticket]:
        """Only so many of those that go on stay, the first who came; returns the others."""
        going_on = sorted(((at, ticket) for at, ticket in enumerate(self._tickets) if ticket), key=_arrival)
        for at, _ in going_on[rows:]:
            self._tickets[at] = None
        return [ticket for _, ticket in going_on[rows:]]

    @property
    def rows(self) -> int:
        """How many there are, with those that have ended."""
        return len(self._tickets)

    @property
    def length(self) -> int:
        """Tokens of each row."""
        return self._batch.length

    def join(self, other: "Company") -> None:
        """Go on together with another, which is used up: on seats that are free, where there are enough."""
        other.compact()
        free = [at for at, ticket in enumerate(self._tickets) if not ticket]
        if len(other._tickets) <= len(free) and other.length <= self.length:
            seats = free[: len(other._tickets)]
            self._batch.seat(seats, other._batch)
            for seat, ticket in zip(seats, other._tickets, strict=True):
                self._tickets[seat] = ticket
            return
        self.compact()
        self._batch.join(other._batch)
        self._tickets += other._tickets

    def tidy(self) -> None:
        """Let go of what is dead, where it is worth it."""
        going_on = self._places()
        dead = len(self._tickets) - len(going_on)
        if dead > len(self._tickets) * _DEAD_WEIGHT or self._batch.unused(going_on) > self.length * _DEAD_LENGTH:
            self.compact()

    def compact(self) -> None:
        """Let go of all that is dead: rows that have ended, and places before the first that one of the others uses."""
        going_on = self._places()
        if going_on and (len(going_on) < len(self._tickets) or self._batch.unused(going_on)):
            self._batch.keep(going_on)
            self._tickets = list(self.tickets)

    def _places(self) -> list[int]:
        """Of the rows that go on."""
        return [at for at, ticket in enumerate(self._tickets) if ticket]


def _arrival(place: tuple[int, Ticket]) -> float:
    return place[1].arrived


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
                self._attempt([], self._company.tidy)
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
        if self._company and self._company.rows + len(newcomers) > self._desk.rows_for(self._company.length):
            self._attempt([], self._company.compact)  # so that nobody's memory is taken by who has ended
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
        if self._company.rows > self._desk.rows_for(self._company.length + _JOIN_EVERY):
            self._company.compact()
            if leaving := self._company.let_go(self._desk.rows_for(self._company.length + _JOIN_EVERY)):
                self._desk.put_back_for_room(leaving)
                self._company.compact()

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
            dead = self._company.rows - len(self._running()) if self._company else 0
            concerned, others = self._let_go(newcomers, also)
            if len(concerned) + others + dead > 1:
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
