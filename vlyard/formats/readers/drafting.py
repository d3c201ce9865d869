"""The annotations that one label makes of one picture, one by one, each accounted for. It knows no format."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from vlyard.formats.readers.pixels import Raster, raster
from vlyard.formats.reading import Draft, Place, Reading, Refused
from vlyard.formats.record import Look

_Said = TypeVar("_Said")


def draft_each(
    place: Place,
    declared: tuple[float, float] | None,
    said: Sequence[tuple[str, _Said]],
    draft: Callable[[_Said, Raster], Draft],
    *,
    look: Look,
    reading: Reading,
) -> None:
    """Draft every annotation of a label: pairs of its entry, such as `object[3]`, and what stands there.

    `declared` is the size that the label says its picture has. What `draft` refuses with `Refused` is refused alone.
    """
    if not said:
        return
    try:
        pixels = raster(declared, look)
    except Refused as refused:
        reading.refuse(place, refused.finding, annotations=len(said))
        return
    if pixels.remark:
        reading.note(place, pixels.remark)
    for entry, each in said:
        where = Place(place.file, place.line, entry)
        try:
            drafted = draft(each, pixels)
        except Refused as refused:
            reading.refuse(where, *pixels.findings, refused.finding)
        else:
            reading.accept(where, drafted)
