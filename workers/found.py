"""From what the parser found in an answer to what a result says of it, in relative and in pixel coordinates."""

from collections.abc import Sequence

from vlyard.formats.answer import AnswerElement, AnswerLine, AnswerObject, AnswerPart, AnswerPoint, Flag
from vlyard.formats.box import Box
from vlyard.jobs.inference import BoxFound, ElementFound, Found, LineFound, PictureSize, PointFound


def found(each: AnswerPart, pictures: Sequence[PictureSize]) -> Found:
    """The object as a result has it, cut at the picture's edges.

    Of several pictures it is in the one that the model named; without pixels where it named none.
    """
    picture = 0 if len(pictures) == 1 else each.picture
    absent = picture is not None and picture >= len(pictures)
    picture = None if absent else picture
    size = None if picture is None else pictures[picture]
    flags = tuple(flag.value for flag in (*each.flags, *((Flag.NO_SUCH_PICTURE,) if absent else ())))
    attributes = dict(each.attributes)
    match each:
        case AnswerPoint(label=label):
            place = Box.from_thousand((each.x, each.y, each.x, each.y))
            pixels = _pixels(place, size)
            return PointFound(
                label=label,
                point_2d=place.to_thousand()[:2],
                point_pixels=None if pixels is None else pixels[:2],
                picture=picture,
                attributes=attributes,
                flags=flags,
            )
        case AnswerObject(label=label, box=box):
            return BoxFound(
                label=label,
                bbox_2d=box.to_thousand(),
                bbox_pixels=_pixels(box, size),
                picture=picture,
                attributes=attributes,
                flags=flags,
            )
        case AnswerLine(text=text, box=box):
            return LineFound(
                text=text,
                bbox_2d=box.to_thousand(),
                bbox_pixels=_pixels(box, size),
                picture=picture,
                attributes=attributes,
                flags=flags,
            )
        case AnswerElement(tag=tag, text=text, box=box):
            return ElementFound(
                tag=tag,
                text=text,
                bbox_2d=box.to_thousand(),
                bbox_pixels=_pixels(box, size),
                picture=picture,
                attributes=attributes,
                flags=flags,
            )


def _pixels(box: Box, size: PictureSize | None) -> tuple[float, float, float, float] | None:
    return None if size is None else box.clamped().pixels(size.width, size.height)
