"""Whether the boxes in answers look like thousandths of their pictures, or like pixels or parts of one.

Nothing in four numbers says what they count. But pixels end where the picture does, and thousandths do not: of a
picture that is 640 pixels wide, every box in thousandths that is in the right third would lie outside of it in pixels.
It knows no file and no model.
"""

from dataclasses import dataclass
from typing import NamedTuple

from vlyard.formats.answer import Flag, parse_answer

_TELLING = 640  # pixels: of pictures with a longer shorter side, boxes in thousandths and in pixels look alike
_ENOUGH = 20  # boxes of smaller pictures, from which on it is no chance that none lies outside of its picture


class _Size(NamedTuple):
    width: int
    height: int


@dataclass
class Frames:
    """What was seen of boxes so far."""

    boxes: int = 0
    over: int = 0  # those with a number over 1000
    parts: int = 0  # those with no number over 1
    telling: int = 0  # those of small pictures
    inside: int = 0  # those of them that would lie inside of their picture if they were pixels

    def see(self, words: str, size: tuple[int, int]) -> None:
        """An answer about a picture of this width and height as displayed, in pixels."""
        picture = _Size(*size)
        for each in parse_answer(words).boxed:
            x2, y2 = each.box.corners[2:]
            self.boxes += 1
            self.over += Flag.OVER_1000 in each.flags
            self.parts += max(x2, y2) <= 1
            self.telling += min(picture) <= _TELLING
            self.inside += min(picture) <= _TELLING and x2 <= picture.width and y2 <= picture.height

    def warnings(self) -> list[str]:
        """What is probably wrong with them, in sentences."""
        scale = "Qwen3-VL answers in thousandths of the picture"
        if self.boxes and self.parts == self.boxes:
            return [f"no box has a number over 1, as if they were parts of the picture: {scale}"]
        if self.over:
            return [f"{self.over} of {self.boxes} boxes have numbers over 1000, as pixels have: {scale}"]
        if self.telling >= _ENOUGH and self.inside == self.telling:
            return [f"all {self.telling} boxes of small pictures end where pixels would: {scale}"]
        return []
