"""What can be wrong with a data set, and what is done about it: a table, and the policy that reads it.

It knows no file format. To handle one more fault, add a row and find it where it can be seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Policy = Literal["fix", "skip", "strict"]


class Status(StrEnum):
    """What became of a label line, a picture, or another part of the input."""

    KEPT = "kept"  # used as it stands
    FIXED = "fixed"  # used, or taken care of, after a change that the report names
    REFUSED = "refused"  # not used; the report says why
    IGNORED = "ignored"  # not a part of the data set, and reported so that nobody misses it


_OUT, _AGAIN = "it was left out", "it was not read again"


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong. `mending` says what is done where that is clear; without one it is refused."""

    code: str
    reason: str  # with {places} that `found` fills in
    mending: str = ""
    harmless: bool = False  # taken care of under every policy
    status: Status = Status.FIXED  # what a mended one counts as

    def found(self, **details: object) -> "Finding":
        """This fault, seen in one place."""
        return Finding(self, self.reason.format(**details), self.mending.format(**details))


@dataclass(frozen=True)
class Finding:
    fault: Fault
    reason: str
    mending: str


# Of a label line.
LINE_TOO_LONG = Fault("line_too_long", "the line has more than {limit} characters")
WRONG_FIELD_COUNT = Fault(
    "wrong_field_count", "it has {count} fields, and a box has 5: class, centre x, y, width, height"
)
CONFIDENCE = Fault("confidence", "there is a sixth field {value}, as detectors write it", "the sixth field was dropped")
CLASS_NOT_INTEGER = Fault("class_not_integer", "the class id {value} is not an integer")
CLASS_AS_DECIMAL = Fault("class_as_decimal", "the class id is written {value}", "it was read as {id}")
CLASS_OUT_OF_RANGE = Fault("class_out_of_range", "no class has the id {value}: {known}")
NOT_A_NUMBER = Fault("not_a_number", "{field} is {value}, which is not a number")
NOT_FINITE = Fault("not_finite", "{field} is {value}, which is not a finite number")
NO_AREA = Fault("no_area", "the box has no area: width {width}, height {height}")
FAR_OUTSIDE = Fault("far_outside", "{field} is {value}, and must lie in 0..1 of the picture (are these pixels?)")
NOT_IN_PICTURE = Fault("not_in_picture", "no part of the box lies inside the picture")
OUTSIDE = Fault("outside", "the box reaches outside the picture by {excess:.6f}", "it was cut at the picture's edge")
DUPLICATE = Fault("duplicate", "the same box stands in line {first}", "the second one was dropped")

# Of a picture.
UNREADABLE_PICTURE = Fault("unreadable_picture", "{damage}")
NAME_NOT_UNICODE = Fault("name_not_unicode", "the file's name is not valid UTF-8, so no data set can name it")
NO_LINE_LEFT = Fault("no_line_left", "every line of its label file was refused, so what it shows is not known")
TURNED = Fault("turned", "other trainers ignore its EXIF orientation {orientation}", "it was written upright", True)

# Of the set.
PICTURE_MISSING = Fault("picture_missing", "the picture {name} is not in the data set")
PICTURE_AMBIGUOUS = Fault("picture_ambiguous", "{count} pictures are called {name}, and the path names none of them")
SPLIT_MISSING = Fault("split_missing", "{split}: {entry} is not in the data set")
ORPHAN_LABEL = Fault("orphan_label", "no picture belongs to this label file")
UNREADABLE_LABEL = Fault("unreadable_label", "the label file cannot be read: {damage}")
LISTED_TWICE = Fault("listed_twice", "the picture was read before, for {split}", _AGAIN, True, Status.IGNORED)
UNLISTED = Fault("unlisted", "no split of the data set contains this picture", _OUT, True, Status.IGNORED)
NOT_LABELS = Fault("not_labels", "it holds no labels, and no picture has its name", _OUT, True, Status.IGNORED)

FAULTS: Mapping[str, Fault] = {fault.code: fault for fault in list(globals().values()) if isinstance(fault, Fault)}


def judge(findings: Sequence[Finding], policy: Policy) -> Status:
    """What becomes of the thing in which all this was found. (Under strict the account stops at what is refused.)"""
    if not findings:
        return Status.KEPT
    if any(not finding.fault.mending for finding in findings):
        return Status.REFUSED
    if policy != "fix" and not all(finding.fault.harmless for finding in findings):
        return Status.REFUSED
    return findings[0].fault.status
