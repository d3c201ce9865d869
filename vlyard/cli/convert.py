"""`vlyard convert`: the conversion on this machine, without a server."""

import inspect
import json as json_text
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlyard.cli.options import collected, parameters
from vlyard.formats.convert import CONTACT_SHEET, PLOTS, REPORT, ConversionReport
from vlyard.formats.convert import convert as convert_dataset
from vlyard.formats.crew import usable_cores
from vlyard.formats.work import Pictures
from vlyard.jobs.conversion import ConversionOptions


def register(app: typer.Typer) -> None:
    """Add the command to the program, which turns what it raises into a message and an exit status."""
    own = [p for p in inspect.signature(convert).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    everything = [*own, *parameters(ConversionOptions)]

    def command(**values: Any) -> None:
        convert(**values)

    # typer reads a function's signature and annotations: here those of the model's fields as well.
    vars(command)["__signature__"] = inspect.Signature(everything)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}
    command.__doc__ = convert.__doc__
    app.command("convert")(command)


def convert(
    *,
    source: Annotated[Path, typer.Argument(help="A folder, zip or tar with pictures and labels in any known format.")],
    output: Annotated[Path, typer.Argument(help="The data set's folder; it must not exist, or be empty.")],
    pictures: Annotated[
        Pictures, typer.Option(help="Copy the pictures, hard-link them, or keep them where they are.")
    ] = "copy",
    processes: Annotated[
        int, typer.Option(min=0, help="How many processes work; 0: as many as this one may use cores.")
    ] = 0,
    tokenizer: Annotated[Path | None, typer.Option(help="The model's tokenizer.json, for --max-answer-tokens.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")] = False,
    **values: Any,
) -> None:
    """Turn labels of any known format into a Qwen3-VL grounding data set, on this machine, without a server."""
    options = collected(ConversionOptions, values)
    # The bar goes to stderr, and only where somebody looks at it; stdout is for the result.
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=json or not console.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0)

        def progress(fraction: float | None, text: str) -> None:
            bar.update(task, completed=fraction or 0.0, description=text)

        report = convert_dataset(
            source,
            output,
            options,
            progress,
            pictures=pictures,
            processes=processes or usable_cores(),
            tokenizer=tokenizer,
        )
    if json:
        print(json_text.dumps({**asdict(report), "output": str(output)}, ensure_ascii=False, indent=2))
    else:
        _show(report, output, Console())


def _show(report: ConversionReport, output: Path, console: Console) -> None:
    table = Table(title=Text(f"{report.format}, {report.layout}: {report.samples} samples, {report.boxes} boxes"))
    for column in ("", "read", "kept", "fixed", "refused", "left out"):
        table.add_column(column, justify="left" if not column else "right")
    annotations, pictures = report.totals["annotations"], report.totals["pictures"]
    table.add_row("annotations", *(str(annotations[part]) for part in ("read", "kept", "fixed", "refused", "left_out")))
    shown = (pictures["read"], pictures["kept"], pictures["rewritten"], pictures["refused"], pictures["left_out"])
    table.add_row("pictures", *map(str, shown))
    console.print(table)
    for sentence in report.evidence:
        console.print(Text(f"· {sentence}"))
    for name, part in report.data_sets.items():
        file = next(
            path for path in (output / f"{name}.json", output / f"{name}.jsonl", output / name) if path.exists()
        )
        console.print(Text(f"{part['split']}: {part['samples']} samples in {file}"))
    console.print(Text(f"every fault: {output / REPORT}"))
    console.print(Text(f"to look at: {output / CONTACT_SHEET}, {output / PLOTS}"))
