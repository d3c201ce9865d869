"""`make bench`: every figure beside its baseline, as ratios measured in this run on this machine.

Arguments name the figures to measure; without any, all are. Bars that are missed are printed, and are no error:
whoever reads the table knows what else the machine did meanwhile.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from bench import (
    backlog,
    bulk,
    conversion,
    features,
    fetching,
    inference,
    latency,
    learning,
    merging,
    post,
    throughput,
    training,
    waiters,
)
from bench.figure import Figure, fsync_seconds, number
from bench.stage import Stage, staged

FIGURES: Mapping[str, Callable[[Stage], Sequence[Figure]]] = {
    "post": post.measure,
    "bulk": bulk.measure,
    "throughput": throughput.measure,
    "latency": latency.measure,
    "backlog": backlog.measure,
    "waiters": waiters.measure,
    "conversion": conversion.measure,
    "inference": inference.measure,
    "features": features.measure,
    "fetching": fetching.measure,
    "merging": merging.measure,
    "training": training.measure,
    "learning": learning.measure,
}
_ONLY_BY_NAME = frozenset({"learning"})  # too long for every time


def main() -> None:
    names = sys.argv[1:] or [name for name in FIGURES if name not in _ONLY_BY_NAME]
    if unknown := set(names) - set(FIGURES):
        sys.exit(f"there is no figure {', '.join(sorted(unknown))}: choose from {', '.join(FIGURES)}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    fsync = fsync_seconds()
    console.print(
        f"{os.cpu_count()} cores, {1 / fsync:.0f} fsync/s ({fsync * 1000:.2f} ms); medians of alternating turns"
    )
    table = Table("figure", "ours", "baseline", "", "ratio", "bar", "")
    with staged() as stage:
        for name in names:
            began = time.perf_counter()
            for figure in FIGURES[name](stage):
                table.add_row(*_cells(figure))
            console.print(f"measured {name} in {time.perf_counter() - began:.0f} s", style="dim")
    console.print(table)


def _cells(figure: Figure) -> Sequence[str]:
    sign = "≥" if figure.better == "more" else "≤"
    return (
        f"{figure.name} ({figure.better} is better)",
        f"{number(figure.ours)} {figure.unit}",
        f"{number(figure.baseline)} {figure.unit}",
        figure.baseline_name,
        f"{number(figure.ratio)} ×",
        "" if figure.bar is None else f"{sign} {figure.bar:.2f} ×",
        {True: "met", False: "MISSED", None: ""}[figure.met],
    )


if __name__ == "__main__":
    main()
