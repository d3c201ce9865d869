"""`make bench`: every figure beside its baseline, as ratios measured in this run on this machine.

Arguments name the figures to measure; without any, all are. Bars that are missed are printed, and are no error:
whoever reads the table knows what else the machine did meanwhile.
"""

import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module

from rich.console import Console
from rich.table import Table

from bench.figure import Figure, fsync_seconds, number
from bench.stage import Stage, staged

# Each is a module here, which is imported when its turn has come: what one needs burdens no other.
FIGURES = (
    "post",
    "bulk",
    "throughput",
    "latency",
    "backlog",
    "waiters",
    "conversion",
    "inference",
    "features",
    "fetching",
    "merging",
    "training",
    "learning",
)
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
            for figure in _measured(name, stage):
                table.add_row(*_cells(figure))
                console.print(" · ".join(filter(None, _cells(figure))))  # the table may be an hour away
            console.print(f"measured {name} in {time.perf_counter() - began:.0f} s", style="dim")
    console.print(table)


def _measured(name: str, stage: Stage) -> Sequence[Figure]:
    figures: Sequence[Figure] = import_module(f"bench.{name}").measure(stage)
    return figures


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
