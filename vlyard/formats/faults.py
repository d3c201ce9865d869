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


_NOT_USED = Status.IGNORED
_OUT, _AGAIN = "it was left out", "it was not read again"
_BY_CONTENT = "readers go by its content"


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
        count = details.get("count")
        return Finding(
            self,
            self.reason.format(**details),
            self.mending.format(**details),
            count if isinstance(count, int) else 1,
        )


@dataclass(frozen=True)
class Finding:
    fault: Fault
    reason: str
    mending: str
    count: int = 1  # of the things that have it


# Of a label line.
LINE_TOO_LONG = Fault("line_too_long", "the line has more than {limit} characters")
WRONG_FIELD_COUNT = Fault(
    "wrong_field_count", "it has {count} fields, and a box has 5: class, centre x, y, width, height"
)
CONFIDENCE = Fault(
    "confidence", "there is one field too many, {value}, as detectors write it", "it was taken for a confidence"
)
SEPARATED = Fault("separated", "its fields are separated by {mark}", "they were divided there")
DECIMAL_COMMA = Fault("decimal_comma", "its numbers have decimal commas", "they were read as points")
PIXELS = Fault("pixels", "{values} look like pixels, and must lie in 0..1 (say so with coordinates=pixels-…)")
NOT_PIXELS = Fault("not_pixels", "{values} are no pixels, and pixels were announced by `coordinates`")
SIZE_UNKNOWN = Fault("size_unknown", "pixels need the picture's size, and nobody looked (choose check=header)")
POSE_UNDECLARED = Fault(
    "pose_undeclared",
    "it looks like a box with keypoints of 3 numbers, and nothing says how many (say so with kpt_shape=…)",
)
KEYPOINT_OUTSIDE = Fault("keypoint_outside", "keypoint {name} lies outside the picture", "the keypoint was left out")
CLASS_NOT_INTEGER = Fault("class_not_integer", "the class id {value} is not an integer")
CLASS_AS_DECIMAL = Fault("class_as_decimal", "the class id is written {value}", "it was read as {id}")
CLASS_AS_NAME = Fault("class_as_name", "the class is written {value}", "it was read as {id}")
CLASS_OUT_OF_RANGE = Fault("class_out_of_range", "no class has the id {value}: {known}")
NOT_A_NUMBER = Fault("not_a_number", "{field} is {value}, which is not a number")
NOT_FINITE = Fault("not_finite", "{field} is {value}, which is not a finite number")
NO_AREA = Fault("no_area", "the box has no area: width {width}, height {height}")
FAR_OUTSIDE = Fault("far_outside", "{field} is {value}, and must lie in 0..1 of the picture (are these pixels?)")
NOT_IN_PICTURE = Fault("not_in_picture", "no part of the box lies inside the picture")
SWAPPED_CORNERS = Fault(
    "swapped_corners", "its left and right or its top and bottom are swapped", "they were put in order"
)
OUTSIDE = Fault("outside", "the box reaches outside the picture by {excess:.6f}", "it was cut at the picture's edge")
DUPLICATE = Fault("duplicate", "the same object stands in {first}", "the second one was dropped")
DUPLICATE_KEPT = Fault(
    "duplicate_kept", "the same object stands in {first}", "both were written, as the tutorial's script does", True,
    Status.KEPT,
)  # fmt: skip

# Of an annotation in a format that is no list of lines.
MALFORMED = Fault("malformed", "{field} is {value}, and must be {due}")
NUMBER_AS_TEXT = Fault("number_as_text", "{field} is written as text", "it was read as numbers")
NO_BOX = Fault("no_box", "it has neither a box nor an outline")
NO_LABEL = Fault("no_label", "it does not say its class")
MASK_LEFT_OUT = Fault("mask_left_out", "its mask is in run lengths", "its box was taken without", True, Status.KEPT)
PART_UNUSABLE = Fault("part_unusable", "its {part} cannot be used: {damage}", "its box was taken without")
SHAPE_UNKNOWN = Fault("shape_unknown", "{shape} with {count} points is no shape that can be read")
LABELS_UNTURNED = Fault(
    "labels_unturned",
    "it was drawn on the picture as stored, before EXIF's orientation {orientation}",
    "it was turned with the picture",
)
SIZE_DIFFERS = Fault(
    "size_differs",
    "it says that the picture has {declared} pixels, and it has {size}",
    "positions were taken relative to the size that the label says",
    True,
    Status.KEPT,
)
SIZE_CONTRADICTS = Fault(
    "size_contradicts",
    "it says that the picture has {declared} pixels, and it has {size}: another shape (is it another picture?)",
)
IMAGE_UNKNOWN = Fault("image_unknown", "no image has the id {id}")
ID_TWICE = Fault("id_twice", "several images have the id {id}, so that nobody knows whose its annotations are")
ENTRY_UNUSABLE = Fault("entry_unusable", "{damage}")
LISTED_AGAIN = Fault("listed_again", "another entry names the same picture", "they were joined", True, Status.KEPT)
ANSWER_DAMAGED = Fault("answer_damaged", "the answer is {damage}", "the objects that could be read were taken")
UNLABELLED_SPLIT = Fault("unlabelled_split", "no picture of {split} has a label, so what it shows is not known")
NO_OBJECTS = Fault("no_objects", "the answer holds no objects, and no empty list that says so: {answer}")

# Of a picture.
UNREADABLE_PICTURE = Fault("unreadable_picture", "{damage}")
NAME_NOT_UNICODE = Fault("name_not_unicode", "the file's name is not valid UTF-8, so no data set can name it")
NO_LINE_LEFT = Fault("no_line_left", "every line of its label file was refused, so what it shows is not known")
NO_LABEL_FILE = Fault(
    "no_label_file", "no label belongs to it", "it was taken for a picture without objects", True, Status.KEPT
)
NOT_IN_FORMAT = Fault(
    "not_in_format", "{count} of its objects have {part}, which {to} does not hold", "their boxes were written", True,
    Status.KEPT,
)  # fmt: skip
UNDER_THE_GRID = Fault(
    "under_the_grid",
    "{count} of its boxes would have no area in thousandths",
    "they were made a thousandth wide or high",
    True,
)
NO_AREA_LEFT = Fault(
    "no_area_left", "{count} of its boxes have no area in thousandths", "they stand there as the script writes them",
    True, Status.KEPT,
)  # fmt: skip
NOT_IN_TUTORIAL = Fault("not_in_tutorial", "the tutorial's script takes no pictures called {suffix}")
TOO_MANY_OBJECTS = Fault("too_many_objects", "it has {count} objects, and one answer may have {limit}")
ANSWER_TOO_LONG = Fault("answer_too_long", "its answer has {count} tokens, and may have {limit}")
TURNED = Fault("turned", "other trainers ignore its EXIF orientation {orientation}", "it was written upright", True)
TRANSPARENT = Fault("transparent", "trainers ignore that parts are transparent", "these were written white", True)
SIXTEEN_BIT = Fault(
    "sixteen_bit", "trainers cut its 16-bit grey off at 255", "it was scaled down, and written with 8 bits", True
)
WIDE_VALUES = Fault(
    "wide_values", "trainers cut its values off at 0 and 255", "they were stretched, and written with 8 bits", True
)
ANIMATED = Fault("animated", "it has several frames or pages", "its first one is used", True, Status.KEPT)
CMYK = Fault("cmyk", "its colours are CMYK", "readers turn it into RGB", True, Status.KEPT)
WRONG_SUFFIX = Fault("wrong_suffix", "it is not of the format that its name says", _BY_CONTENT, True, Status.KEPT)

# What the options leave out.
OTHER_CLASS = Fault(
    "other_class", "{count} of its objects are of classes that were not asked for", _OUT, True, _NOT_USED
)
POINT_ALONE = Fault("point_alone", "{count} of its objects are points, and boxes were asked for", _OUT, True, _NOT_USED)
TOO_SMALL = Fault("too_small", "{count} of its boxes are smaller than `min_size`", _OUT, True, _NOT_USED)
EMPTIED = Fault("emptied", "all that it shows was left out, so that no answer about it is true", _OUT, True, _NOT_USED)
SPARE_NEGATIVE = Fault(
    "spare_negative", "it shows no object, and `negatives` wants only some of these", _OUT, True, _NOT_USED
)
NO_SAMPLE = Fault(
    "no_sample", "it shows no object, and the tutorial's script takes no such picture", _OUT, True, _NOT_USED
)

# Of the set.
PICTURE_MISSING = Fault("picture_missing", "the picture {name} is not in the data set")
PICTURE_AMBIGUOUS = Fault("picture_ambiguous", "{count} pictures are called {name}, and the path names none of them")
SPLIT_MISSING = Fault("split_missing", "{split}: {entry} is not in the data set")
NOT_A_PICTURE = Fault("not_a_picture", "the list names {name}, which is not called as pictures are")
ORPHAN_LABEL = Fault("orphan_label", "no picture belongs to this label file")
SECOND_LABEL = Fault("second_label", "its picture has another label file, which was read")
LABEL_AMBIGUOUS = Fault(
    "label_ambiguous", "{count} label files, such as {name}, may be the picture's (name their folder as `labels`)"
)
MIXED_ROWS = Fault("mixed_rows", "it has rows of boxes and of polygons", "both were read", True, Status.KEPT)
UNREADABLE_LABEL = Fault("unreadable_label", "the label file cannot be read: {damage}")
LISTED_TWICE = Fault("listed_twice", "the picture was read before, for {split}", _AGAIN, True, Status.IGNORED)
UNLISTED = Fault("unlisted", "no split of the data set contains this picture", _OUT, True, Status.IGNORED)
LABEL_UNLISTED = Fault(
    "label_unlisted", "it belongs to a picture that no split of the data set contains", _OUT, True, Status.IGNORED
)
ROWS_ELSEWHERE = Fault(
    "rows_elsewhere", "its {count} lines look like labels, and no picture's are looked for there", _OUT, True,
    Status.IGNORED,
)  # fmt: skip
NOT_LABELS = Fault("not_labels", "it holds no labels, and no picture was read with it", _OUT, True, Status.IGNORED)

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
