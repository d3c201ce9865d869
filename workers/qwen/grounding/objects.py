"""What an answer or its truth says is in a picture, and which labels mean the same. It knows no metric."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vlyard.formats.answer import Answer

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in 0..1000 of the displayed picture


@dataclass(frozen=True)
class Thing:
    """An object with a box around it, by the name that counts."""

    label: str
    corners: Corners
    confidence: float = 1.0

    @property
    def rank(self) -> tuple[object, ...]:
        """By which things come into an order that is the same however they were told; the surest first."""
        return -self.confidence, self.label, self.corners


@dataclass(frozen=True)
class Naming:
    """Which labels mean the same."""

    aliases: Mapping[str, str] = field(default_factory=dict)  # another word for a label, and the label
    ignore_case: bool = False

    def name(self, label: str) -> str:
        """The name that counts: of an alias the label that it stands for; in small letters where case is ignored."""
        label = self._folded(label)
        return self._folded(self._known.get(label, label))

    @cached_property
    def _known(self) -> Mapping[str, str]:
        return {self._folded(alias): meant for alias, meant in self.aliases.items()}

    def _folded(self, label: str) -> str:
        return label.casefold() if self.ignore_case else label


EXACT = Naming()


def things(answer: Answer, naming: Naming = EXACT, confidences: Sequence[float] | None = None) -> tuple[Thing, ...]:
    """The boxes of an answer, cut at the picture's edges; points are none. `confidences` are those of `answer.boxed`.

    A line of text is called by what it says, a part of a document by its tag.
    """
    sure = [1.0] * len(answer.boxed) if confidences is None else confidences
    return tuple(
        Thing(naming.name(each.label), each.box.clamped().corners, confidence)
        for each, confidence in zip(answer.boxed, sure, strict=True)
    )


def ordered(those: Iterable[Thing]) -> list[Thing]:
    """Those things in the order of their ranks."""
    return sorted(those, key=lambda thing: thing.rank)
