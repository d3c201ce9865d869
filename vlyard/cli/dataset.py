"""`vlyard dataset`: looking at a converted data set in the terminal, without a server."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import orjson
import typer
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from vlyard.errors import Complaint, InvalidInput, UnreadablePicture
from vlyard.formats.converted import ConvertedSet, Sample, open_converted
from vlyard.formats.drawing import colour_of, tiny
from vlyard.formats.faults import FAULTS
from vlyard.formats.options import LABEL_FORMATS
from vlyard.formats.plots import panels

_WIDEST, _TALLEST = 120, 40  # of a picture, in characters
_BAR = 40  # characters of the longest bar
_SHORT = 300  # characters of an answer in the overview
_ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the commands to the program, which turns what they raise into a message and an exit status."""
    group = typer.Typer(no_args_is_help=True, help="Look at converted data sets, without a server.")
    group.command("show")(show)
    app.add_typer(group, name="dataset")


def show(
    path: Annotated[Path, typer.Argument(help="The folder that a conversion wrote, or a zip of it.")],
    sample: Annotated[int | None, typer.Option(min=1, help="Show this sample, counted from 1.")] = None,
    picture: Annotated[str | None, typer.Option(help="Show the first sample of this picture, by its name.")] = None,
    faults: Annotated[str | None, typer.Option(help="List the report's rows with this code; `all` lists all.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show what a conversion made: its report, statistics, faults, and samples with their pictures."""
    converted = open_converted(path)
    console = Console()
    if faults is not None:
        _show_rows(_rows(converted, faults), console, as_json=json)
    elif sample is not None or picture is not None:
        found = _sample(converted, sample, picture)
        if json:
            _print_json(asdict(found))
        else:
            _show_sample(converted, found, console)
    elif json:
        _print_json(_overview(converted))
    else:
        _show_overview(converted, path, console)


# --- finding --------------------------------------------------------------------------------------------------


def _sample(converted: ConvertedSet, number: int | None, picture: str | None) -> Sample:
    """Of all data sets, in the report's order."""
    chosen: Iterable[Sample] = converted.samples()
    if picture is not None:
        wanted = PurePosixPath(picture).parts
        chosen = (each for each in chosen if PurePosixPath(each.picture).parts[-len(wanted) :] == wanted)
    found = next(islice(chosen, (number or 1) - 1, None), None)
    if found is None:
        asked = f"sample {number or 1}" + (f" of the picture {picture}" if picture is not None else "")
        fix = f"it has {converted.head['totals']['samples']} samples"
        if converted.head["options"]["to"] in LABEL_FORMATS:
            fix = "a label format has none: convert it to sharegpt to see questions and answers"
        raise InvalidInput("There is no such sample", [Complaint("--sample", f"{asked} is not in the data set", fix)])
    return found


def _rows(converted: ConvertedSet, code: str) -> Iterator[dict[str, Any]]:
    if code not in {_ALL, *FAULTS}:
        seen = ", ".join(converted.head["totals"]["faults"]) or "none"
        complaint = Complaint("--faults", f"there is no fault {code}", f"this report has: {seen}; or say {_ALL}")
        raise InvalidInput("There is no such fault", [complaint])
    return (row for row in converted.rows() if code == _ALL or code in row["codes"])


def _first_samples(converted: ConvertedSet) -> list[Sample]:
    return [sample for name in converted.head["data_sets"] for sample in islice(converted.samples(name), 1)]


def _overview(converted: ConvertedSet) -> dict[str, Any]:
    return {
        "report": converted.head,
        "faults": converted.faults(),
        "statistics": converted.statistics(),
        "samples": [asdict(sample) for sample in _first_samples(converted)],
    }


# --- showing --------------------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def _show_rows(rows: Iterable[Mapping[str, Any]], console: Console, *, as_json: bool) -> None:
    """Line by line as they are read: there may be very many."""
    for row in rows:
        if as_json:
            sys.stdout.write(orjson.dumps(row).decode() + "\n")
            continue
        said = row["reason"] + (f": {row['how']}" if row["how"] else "")
        console.print(Text.assemble((_plain(_place(row)), "bold"), _text(f"  {row['status']}: {said}")), soft_wrap=True)


def _show_overview(converted: ConvertedSet, path: Path, console: Console) -> None:
    head = converted.head
    console.print(_text(f"{path}: {head['source']['format']}, {head['source']['layout']}", "bold"))
    for sentence in head["source"]["evidence"]:
        console.print(_text(f"· {sentence}"))
    console.print(_totals(head["totals"]))
    for name, part in head["data_sets"].items():
        console.print(_text(f"{part['split']}: {part['samples']:,} samples, {part['boxes']:,} boxes in {name}"))
    if found := converted.faults():
        console.print(_faults(head["totals"]["faults"], found))
    if statistics := converted.statistics():
        for panel in panels(statistics):
            console.print()
            console.print(Text.assemble((panel.title, "bold"), (f"  {panel.note}", "dim")))
            bars = Table.grid(padding=(0, 1))
            bars.add_column(justify="right", max_width=40)
            for row in panel.rows:
                bar = "█" * max(round(panel.length(row) * _BAR), 1 if row.value else 0)
                bars.add_row(_text(row.label), Text(bar, Style(color=Color.from_rgb(*row.colour))), _text(row.shown))
            console.print(bars)
    for sample in _first_samples(converted):
        console.print()
        _show_words(sample, console, shortened=True)
    console.print(_text("--sample 1 shows a picture, --faults all lists every fault", "dim"))


def _totals(totals: Mapping[str, Any]) -> Table:
    columns = ("read", "kept", "fixed", "refused", "left_out", "rewritten")
    table = Table("", *(column.replace("_", " ") for column in columns))
    for name in ("pictures", "annotations"):
        table.add_row(name, *(f"{totals[name][column]:,}" if column in totals[name] else "" for column in columns))
    return table


def _faults(counts: Mapping[str, int], found: Mapping[str, list[dict[str, Any]]]) -> Table:
    table = Table("fault", "rows", "first of them")
    for code, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        table.add_row(_text(code), f"{count:,}", _text("\n".join(map(_place, found[code]))))
    return table


def _place(row: Mapping[str, Any]) -> str:
    return ":".join(str(part) for part in (row["file"], row["line"], row["entry"]) if part is not None)


def _show_sample(converted: ConvertedSet, sample: Sample, console: Console) -> None:
    _show_words(sample, console)
    boxes = sample.boxes()
    for box, label in boxes:
        mark = "■ ", Style(color=Color.from_rgb(*colour_of(label)))
        console.print(Text.assemble(mark, _text(f"{label} {list(box.to_thousand())}")))
    if console.color_system is None:
        console.print(_text("the picture is shown where the terminal has colours"))
        return
    try:
        picture = converted.picture(sample)
    except UnreadablePicture as damage:
        console.print(_text(str(damage)))
        return
    width, height = min(console.width, _WIDEST), min(max(console.height - 8, 10), _TALLEST)
    console.print(in_half_blocks(tiny(picture, boxes, width, 2 * height)), soft_wrap=True)


def _show_words(sample: Sample, console: Console, *, shortened: bool = False) -> None:
    answer = sample.answer
    if shortened and len(answer) > _SHORT:
        answer = f"{answer[:_SHORT]}… ({len(answer):,} characters)"
    console.print(_text(f"{sample.data_set}, sample {sample.number}: {sample.picture}", "bold"))
    console.print(Text.assemble(("asked  ", "dim"), _text(sample.question)))
    console.print(Text.assemble(("answer ", "dim"), _text(answer)))


def in_half_blocks(picture: Image.Image) -> Text:
    """An RGB picture in 24-bit colours, two of its rows in each line: the upper half of a cell and the ground."""
    text = Text(no_wrap=True)
    for y in range(0, picture.height, 2):
        text.append("\n" if y else "")
        for x in range(picture.width):
            upper, lower = (_colour(picture, x, row) for row in (y, y + 1))
            text.append("▀", Style(color=upper, bgcolor=lower))
    return text


def _colour(picture: Image.Image, x: int, y: int) -> Color | None:
    if y >= picture.height:
        return None
    pixel = picture.getpixel((x, y))
    assert isinstance(pixel, tuple)  # it is RGB
    return Color.from_rgb(*pixel)


def _text(words: str, style: str = "") -> Text:
    return Text(_plain(words), style)


def _plain(words: str) -> str:
    """Words of a data set, which may hold anything, without what a terminal would obey."""
    storable = words.encode("utf-8", "replace").decode()
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in storable
    )
