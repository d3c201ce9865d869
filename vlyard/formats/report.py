"""The account of a conversion: what became of every annotation and every picture, `report.json` and `report.csv`.

`report.json` is one object, and its shape is kept:

    version           2
    source            {"format", "layout", "evidence": [sentence, …], "described_by"}
    options           as `ConversionOptions`
    classes           {"<id>": name} of the output; null in a set without names
    data_sets         {"<name>": {"split", "samples", "boxes"}}
    boxes_per_class   {name: count}
    totals            {"pictures": {read, kept, refused, left_out, without_objects, without_label_file, rewritten},
                       "annotations": {read, kept, fixed, refused, left_out}, "samples", "boxes", "spelling":
                       {files_with_byte_order_mark, files_with_carriage_returns, blank_lines, said_again},
                       "faults": {code: count}}; said_again counts objects that several samples of one
                       picture name, and that are one
                      pictures: read = kept + refused + left_out; annotations: read = the sum of all others
    rows              [{"file", "line", "entry", "status", "codes", "reason", "how", "annotations"}, …]

There is a row for everything that was fixed, refused or ignored, and for what is odd and changes nothing (kept), in the
order in which it was met. What the options leave out is ignored: of a picture's objects one row for each reason. `line`
counts from 1 in files that are read by lines; elsewhere `entry` names the place, such as `annotations[12]`.
`annotations` is how many of them the row accounts for, so that the rows that are refused, and those that are ignored,
add up to the totals of what was refused and left out. The codes are those of `vlyard.formats.faults`. `report.csv` has
the same rows.
"""

import csv
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.faults import Policy, Status
from vlyard.formats.reading import Row
from vlyard.formats.tree import storable

VERSION = 2
COLUMNS = ("file", "line", "entry", "status", "codes", "reason", "how", "annotations")
_REMEMBERED = 20  # complaints that are kept for a message
_PICTURES = ("kept", "refused", "left_out", "without_objects", "without_label_file", "rewritten")
_ANNOTATIONS = ("kept", "fixed", "refused", "left_out")
_SPELLING = ("files_with_byte_order_mark", "files_with_carriage_returns", "blank_lines", "said_again")


@dataclass
class Totals:
    """Counts of everything; those of several parts add up."""

    pictures: Counter[str] = field(default_factory=Counter)
    annotations: Counter[str] = field(default_factory=Counter)
    spelling: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    boxes_per_class: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)  # split -> samples
    boxes: Counter[str] = field(default_factory=Counter)  # split -> boxes
    classes: dict[int, str] = field(default_factory=dict)  # that were met, by id
    complaints: list[Complaint] = field(default_factory=list)  # the first of what was refused

    def __iadd__(self, other: "Totals") -> "Totals":
        for mine, more in (
            (self.pictures, other.pictures),
            (self.annotations, other.annotations),
            (self.spelling, other.spelling),
            (self.faults, other.faults),
            (self.boxes_per_class, other.boxes_per_class),
            (self.samples, other.samples),
            (self.boxes, other.boxes),
        ):
            mine.update(more)
        self.classes |= other.classes
        self.complaints += other.complaints[: _REMEMBERED - len(self.complaints)]
        return self

    def row(self, row: Row, policy: Policy) -> bytes:
        """Account for a row; returns it as JSON. Raises `InvalidInput` for a fault under the policy `strict`."""
        reason = storable("; ".join(finding.reason for finding in row.findings))
        how = "; ".join(finding.mending for finding in row.findings) if row.status is not Status.REFUSED else ""
        self.faults.update(finding.fault.code for finding in row.findings)
        if row.status is Status.REFUSED:
            complaint = Complaint(storable(str(row.place)), reason)
            if policy == "strict":
                raise InvalidInput("The data set has a fault, and the policy is strict", [complaint])
            if len(self.complaints) < _REMEMBERED:
                self.complaints.append(complaint)
        values = (
            storable(row.place.file), row.place.line, row.place.entry or None, row.status,
            [finding.fault.code for finding in row.findings], reason, how, row.annotations,
        )  # fmt: skip
        return orjson.dumps(dict(zip(COLUMNS, values, strict=True)))

    def as_json(self) -> dict[str, Any]:
        """The totals as the report shows them."""
        pictures = {part: self.pictures[part] for part in _PICTURES}
        annotations = {part: self.annotations[part] for part in _ANNOTATIONS}
        read = pictures["kept"] + pictures["refused"] + pictures["left_out"]
        return {
            "pictures": {"read": read, **pictures},
            "annotations": {"read": sum(annotations.values()), **annotations},
            "samples": self.samples.total(),
            "boxes": self.boxes.total(),
            "spelling": {mark: self.spelling[mark] for mark in _SPELLING},
            "faults": dict(sorted(self.faults.items())),
        }


def write_report(folder: Path, head: dict[str, Any], rows: Path) -> None:
    """Write `report.json` and `report.csv` of the head and of a file with one row of JSON in each line."""
    with (folder / "report.json").open("wb") as report, rows.open("rb") as written:
        report.write(orjson.dumps(head, option=orjson.OPT_INDENT_2).removesuffix(b"\n}"))
        report.write(b',\n  "rows": [\n')
        shutil.copyfileobj(written, report)
        report.write(b"\n]}\n")
    with (folder / "report.csv").open("w", encoding="utf-8", newline="") as table, rows.open("rb") as written:
        columns = csv.DictWriter(table, COLUMNS)
        columns.writeheader()
        for line in written:
            row = orjson.loads(line.rstrip(b",\n"))
            columns.writerow(row | {"codes": " ".join(row["codes"])})
