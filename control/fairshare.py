"""Who goes next. Pure and deterministic: values in, a choice out; no clock, no database, no randomness.

The rule of this version is first in, first out, by priority inside a team; usage and shares are already part of
the question, so that another rule changes this file alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, combinations
from uuid import UUID


@dataclass(frozen=True)
class Waiting:
    """A job that could start now."""

    job: UUID
    team: UUID
    kind: str
    priority: int
    since: datetime
    model: str = ""  # jobs of the same model may travel together
    alone: bool = False  # it was lost in company, and now has to show that it was not its fault


@dataclass(frozen=True)
class Running:
    """Slots that a team's jobs of one kind take up now."""

    team: UUID
    kind: str
    count: int


@dataclass(frozen=True)
class Share:
    """What a team is due of a pool."""

    weight: float = 1.0
    max_running: int | None = None


@dataclass(frozen=True)
class Slots:
    """Slots of workers that serve the same kinds, taken and free ones together."""

    kinds: frozenset[str]
    count: int


def choose(
    waiting: Sequence[Waiting],
    running: Sequence[Running],
    usage: Mapping[UUID, float],  # noqa: ARG001  # part of the question; first in, first out does not ask it
    shares: Mapping[UUID, Share],
    slots: Sequence[Slots],
) -> list[Waiting]:
    """The jobs to dispatch now, in order.

    Never more than fit on the slots, never more of a team than its `max_running`, and no slot stays free while a
    job waits that it could run.
    """
    demand = Counter[str]()
    held = Counter[UUID]()
    for row in running:
        demand[row.kind] += row.count
        held[row.team] += row.count
    free = sum(group.count for group in slots) - seated(demand, slots)
    chosen: list[Waiting] = []
    for job in _line(waiting):
        if len(chosen) == free:
            break
        limit = shares.get(job.team, Share()).max_running
        if limit is not None and held[job.team] >= limit:
            continue
        if seated(demand + Counter([job.kind]), slots) > seated(demand, slots):
            demand[job.kind] += 1
            held[job.team] += 1
            chosen.append(job)
    return chosen


def seated(demand: Mapping[str, int], slots: Sequence[Slots]) -> int:
    """How many of the jobs of these kinds can sit on slots that serve them, at most.

    Hall's theorem with its deficiency (König, Ore), over the few kinds: whoever has no seat belongs to the kinds that
    ask for the most beyond their slots. Kinds whose workers have gone can ask for more than there is.
    """
    kinds = [kind for kind, count in demand.items() if count > 0]
    subsets = chain.from_iterable(combinations(kinds, size) for size in range(len(kinds) + 1))
    without = max(
        sum(demand[kind] for kind in subset) - sum(group.count for group in slots if not group.kinds.isdisjoint(subset))
        for subset in subsets
    )
    return sum(demand[kind] for kind in kinds) - without


def _line(waiting: Sequence[Waiting]) -> list[Waiting]:
    """All jobs by age, but each team's places in the line go to its jobs by priority.

    A team's urgent job overtakes the team's other jobs and nobody else's.
    """
    teams: dict[UUID, list[Waiting]] = {}
    for job in waiting:
        teams.setdefault(job.team, []).append(job)
    line: list[tuple[tuple[datetime, UUID], Waiting]] = []
    for jobs in teams.values():
        places = sorted((job.since, job.job) for job in jobs)
        line += zip(places, sorted(jobs, key=lambda job: (-job.priority, job.since, job.job)), strict=True)
    return [job for _, job in sorted(line, key=lambda row: row[0])]
