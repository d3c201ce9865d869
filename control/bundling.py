"""Short jobs that travel together. Pure: which job rides in which message, and in what order.

A message per job costs more than a short job itself, so the jobs that were chosen take others of their team, kind and
model along. All of them sit on one slot; where they run one after the other, company is spread evenly over the
messages that leave at the same time. A job that was lost in company rides alone.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from uuid import UUID

from control.fairshare import Waiting

Group = tuple[UUID, str, str]  # team, kind, model


def bundles(
    chosen: Sequence[Waiting],
    waiting: Sequence[Waiting],
    most: Mapping[str, int],
    places: Mapping[str, int] = MappingProxyType({}),
) -> list[list[UUID]]:
    """The messages for the chosen jobs, each with the jobs in it; no more in one than `most` says of their kind.

    Kinds in `places` are done together, message by message: theirs are as full as can be, and no fewer than there are
    slots that work on them at once.
    """
    taken = {job.job for job in chosen}
    company: dict[Group, list[Waiting]] = {}
    for job in sorted(waiting, key=lambda job: (-job.priority, job.since, job.job)):
        if job.job not in taken and not job.alone:
            company.setdefault(_group(job), []).append(job)
    leaders: dict[Group, list[list[Waiting]]] = {}
    messages = [[job] for job in chosen]
    for message in messages:
        if not message[0].alone:
            leaders.setdefault(_group(message[0]), []).append(message)
    for group, own in leaders.items():
        most_in_one, others = most.get(group[1], 1), company.get(group, [])
        if group[1] in places:
            wanted = max(places[group[1]], math.ceil((len(own) + len(others)) / most_in_one))
            others = [message.pop() for message in own[wanted:]] + others
            own = own[:wanted]  # noqa: PLW2901
        for number, job in enumerate(others[: (most_in_one - 1) * len(own)]):
            own[number % len(own)].append(job)
    return [[job.job for job in message] for message in messages if message]


def _group(job: Waiting) -> Group:
    return job.team, job.kind, job.model
