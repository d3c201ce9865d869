"""The account of a conversion: what became of every label line and every picture, and `report.json`.

`report.json` is one object, and its shape is kept:

    version           1
    layout            {"name", "evidence": [sentence, …]}
    options           {"name", "prompt", "policy", "keep_empty"}
    classes           {"<id>": name}; null in a set without names
    data_sets         {"<name in dataset_info.json>": {"split", "samples", "boxes"}}
    boxes_per_class   {name: count}
    totals            {"pictures": {read, kept, refused, left_out, without_objects, without_label_file, turned},
                       "lines": {read, kept, fixed, refused}, "boxes", "spelling": {files_with_byte_order_mark,
                       files_with_carriage_returns, blank_lines}}
                      pictures: read = kept + refused + left_out; lines: read = kept + fixed + refused
    rows              [{"file", "line", "status", "codes", "reason", "how", "lines"}, …]

There is a row for everything that was fixed, refused or ignored, in the order in which it was met. `line` counts from
1, and is null where the row is about a whole file. `lines` is how many label lines the row accounts for, so that the
rows of one status add up to the total of the lines. The codes are those of `vlyard.formats.faults`.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.faults import Finding, Policy, Status, judge
from vlyard.formats.tree import storable
from vlyard.formats.yolo import LabelLine, Spelling

VERSION = 1
_REMEMBERED = 20  # complaints that are kept for a message


@dataclass
class Account:
    """Counts everything, and writes each row to a file as it comes, so that memory does not grow with the set.

    Under the policy `strict` the first fault raises `InvalidInput` with its place.
    """

    rows: Path
    policy: Policy
    lines: Counter[Status] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)
    spelling: Counter[str] = field(default_factory=Counter)
    boxes_per_class: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)  # split -> samples
    boxes: Counter[str] = field(default_factory=Counter)  # split -> boxes
    complaints: list[Complaint] = field(default_factory=list)

    def __enter__(self) -> "Account":
        self._file = self.rows.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def line(self, file: str, line: LabelLine) -> None:
        """Account for one label line."""
        self.lines[line.status] += 1
        if line.findings:
            self._row(file, line.number, line.status, line.findings, 1)

    def whole(self, file: str, finding: Finding, *, line: int | None = None, lines: int = 0) -> Status:
        """Account for something else than a label line, and with it for the label lines that nothing will read."""
        status = judge([finding], self.policy)
        self.lines[Status.REFUSED] += lines
        self._row(file, line, status, [finding], lines)
        return status

    def label_file(self, spelling: Spelling) -> None:
        """Account for how a label file was written."""
        self.spelling["files_with_byte_order_mark"] += spelling.byte_order_mark
        self.spelling["files_with_carriage_returns"] += spelling.carriage_returns
        self.spelling["blank_lines"] += spelling.blank_lines

    def sample(self, split: str, labels: Sequence[str]) -> None:
        """Account for a picture that became a sample with these objects."""
        self.pictures["kept"] += 1
        self.pictures["without_objects"] += not labels
        self.samples[split] += 1
        self.boxes[split] += len(labels)
        self.boxes_per_class.update(labels)

    def _row(self, file: str, line: int | None, status: Status, findings: Sequence[Finding], lines: int) -> None:
        reason = "; ".join(finding.reason for finding in findings)
        how = "; ".join(finding.mending for finding in findings) if status is not Status.REFUSED else ""
        file, reason = storable(file), storable(reason)
        where = file if line is None else f"{file}:{line}"
        if not all(finding.fault.harmless for finding in findings):
            complaint = Complaint(where, reason)
            if self.policy == "strict":
                raise InvalidInput("The data set has a fault, and the policy is strict", [complaint])
            if status is Status.REFUSED and len(self.complaints) < _REMEMBERED:
                self.complaints.append(complaint)
        row = {
            "file": file,
            "line": line,
            "status": status,
            "codes": [finding.fault.code for finding in findings],
            "reason": reason,
            "how": how,
            "lines": lines,
        }
        self._file.write((b",\n" if self._file.tell() else b"") + orjson.dumps(row))

    def totals(self) -> dict[str, Any]:
        """The totals as the report shows them."""
        seen = self.pictures
        read = seen["kept"] + seen["refused"] + seen["left_out"]
        parts = ("kept", "refused", "left_out", "without_objects", "without_label_file", "turned")
        marks = ("files_with_byte_order_mark", "files_with_carriage_returns", "blank_lines")
        lines = {str(status): self.lines[status] for status in (Status.KEPT, Status.FIXED, Status.REFUSED)}
        return {
            "pictures": {"read": read, **{part: seen[part] for part in parts}},
            "lines": {"read": sum(lines.values()), **lines},
            "boxes": self.boxes.total(),
            "spelling": {mark: self.spelling[mark] for mark in marks},
        }


def write_report(path: Path, head: dict[str, Any], rows: Path) -> None:
    """Join the head and the rows to one JSON object."""
    with path.open("wb") as report, rows.open("rb") as written:
        report.write(orjson.dumps(head, option=orjson.OPT_INDENT_2).removesuffix(b"\n}"))
        report.write(b',\n  "rows": [\n')
        shutil.copyfileobj(written, report)
        report.write(b"\n]}\n")
