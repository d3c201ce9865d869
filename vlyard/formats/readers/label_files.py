"""Which files of a set may hold labels, and how a set that cannot be read is refused. It knows no format."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats.reading import Wanted
from vlyard.formats.tree import Tree, storable


def label_files(tree: Tree, wanted: Wanted, suffixes: Collection[str]) -> Iterator[Path]:
    """Every file with one of the suffixes, in the tree's order, where labels are to be looked for.

    Raises `InvalidInput` where that place is not in the set. A file that is named is given whatever its suffix.
    """
    place = tree.find(wanted.labels, [tree.root]) if wanted.labels else tree.root
    if place is None:
        fix = "name a file or a folder of the source, as seen from its root"
        raise invalid("labels", f"{wanted.labels} is not in the source", fix)
    if place.is_file():
        yield place
        return
    for folder, names in tree.folders(place):
        for name in names:
            if os.path.splitext(name)[1].lower() in suffixes:  # noqa: PTH122 - names by the million are no Paths
                yield Path(folder, name)


def invalid(where: str, what: str, fix: str) -> InvalidInput:
    """The refusal of a whole set."""
    return InvalidInput("The data set cannot be read", [Complaint(storable(where), storable(what), fix)])
