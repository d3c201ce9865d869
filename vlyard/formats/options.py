"""What a conversion was asked for, as its stages know it: the values of `ConversionOptions`, and not what checks them.

To load what checks them takes a process as long as its first three thousand pictures, and only the first one needs it.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from vlyard.jobs.conversion import ConversionOptions

    Options: TypeAlias = ConversionOptions
else:
    Options = SimpleNamespace

# The outputs that hold labels, and no questions and answers.
LABEL_FORMATS = frozenset({"yolo", "coco", "voc"})


def plain(options: Options, **others: object) -> Options:
    """The same values but for some others: attributes alone, for other processes and for what they import."""
    return cast(Options, SimpleNamespace(**{**vars(options), **others}))
