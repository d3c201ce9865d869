"""`make bench`: every figure beside its baseline, as ratios measured in this run on this machine."""

import os

from rich.console import Console
from rich.table import Table

from bench import conversion, latency, waiters
from bench.figure import Figure, fsync_rate


def main() -> None:
    console = Console()
    console.print(f"{os.cpu_count()} cores, {fsync_rate():.0f} fsync/s; medians of alternating turns")
    figures: list[Figure] = []
    for module in (conversion, latency, waiters):
        console.print(f"measuring {module.__name__.removeprefix('bench.')} …", style="dim")
        figures += module.measure()
    table = Table("figure", "ours", "baseline", "", "ratio")
    for row in figures:
        wanted = f"({row.better} is better)"
        table.add_row(
            f"{row.name} {wanted}",
            f"{row.ours:.1f} {row.unit}",
            f"{row.baseline:.1f} {row.unit}",
            row.baseline_name,
            f"{row.ratio:.2f} ×",
        )
    console.print(table)


if __name__ == "__main__":
    main()
