"""`vlyard convert`: the conversion on this machine, without a server."""

import json as json_text
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlyard.formats.convert import CONTACT_SHEET, REPORT, ConversionReport, Options
from vlyard.formats.convert import convert as convert_dataset
from vlyard.formats.faults import Policy
from vlyard.jobs.conversion import DEFAULT_PROMPT


def register(app: typer.Typer) -> None:
    """Add the command to the program, which turns what it raises into a message and an exit status."""
    app.command("convert")(convert)


def convert(  # noqa: PLR0917  # typer reads the parameters, and nobody calls it
    source: Annotated[Path, typer.Argument(help="A folder, zip or tar with pictures and YOLO detection labels.")],
    output: Annotated[Path, typer.Argument(help="The data set's folder; it must not exist, or be empty.")],
    name: Annotated[str, typer.Option(help="The data set's name in dataset_info.json.")] = "grounding",
    prompt: Annotated[str, typer.Option(help="What the user turn asks, without <image>.")] = DEFAULT_PROMPT,
    policy: Annotated[Policy, typer.Option(help="fix mends, skip refuses, strict stops at a fault.")] = "fix",
    keep_empty: Annotated[bool, typer.Option(help="Keep pictures without objects, answered by [].")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")] = False,
) -> None:
    """Turn YOLO labels into a Qwen3-VL grounding data set on this machine, without a server."""
    options = Options(name=name, prompt=prompt, policy=policy, keep_empty=keep_empty)
    # The bar goes to stderr, and only where somebody looks at it; stdout is for the result.
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=json or not console.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0)

        def progress(fraction: float | None, text: str) -> None:
            bar.update(task, completed=fraction or 0.0, description=text)

        report = convert_dataset(source, output, options, progress)
    if json:
        print(json_text.dumps({**asdict(report), "output": str(output)}, ensure_ascii=False, indent=2))
    else:
        _show(report, output, Console())


def _show(report: ConversionReport, output: Path, console: Console) -> None:
    table = Table(title=Text(f"{report.layout}: {report.samples} samples, {report.boxes} boxes"))
    for column in ("", "read", "kept", "fixed", "refused", "left out"):
        table.add_column(column, justify="left" if not column else "right")
    lines, pictures = report.totals["lines"], report.totals["pictures"]
    table.add_row("label lines", *(str(lines[part]) for part in ("read", "kept", "fixed", "refused")), "")
    shown = (pictures["read"], pictures["kept"], pictures["turned"], pictures["refused"], pictures["left_out"])
    table.add_row("pictures", *map(str, shown))
    console.print(table)
    for sentence in report.evidence:
        console.print(Text(f"· {sentence}"))
    for name, part in report.data_sets.items():
        console.print(Text(f"{part['split']}: {part['samples']} samples in {output / f'{name}.json'}"))
    console.print(Text(f"every fault: {output / REPORT}"))
    console.print(Text(f"to look at: {output / CONTACT_SHEET}"))
