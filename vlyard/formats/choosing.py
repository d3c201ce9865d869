"""Which objects of a data set are wanted, and what their classes are called. It knows no label format."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlyard.errors import Complaint, InvalidInput
from vlyard.formats import faults
from vlyard.formats.classes import Classes
from vlyard.formats.faults import Fault, Finding
from vlyard.formats.options import LABEL_FORMATS, Options
from vlyard.formats.record import Look, Target


@dataclass(frozen=True)
class Choice:
    """What becomes of each class of the source, and of small boxes."""

    classes: Mapping[int, str] | None  # the output's classes by their new ids; None in a set without names
    renamed: Mapping[int, tuple[int, str] | None] | None  # source id -> new id and name, or left out; None: all as is
    open_ended: bool  # an id that `renamed` does not have stays as it is
    min_size: float  # pixels
    points: bool  # whether objects without extent are wanted

    @classmethod
    def of(cls, options: Options, classes: Classes) -> "Choice":
        """Raises `InvalidInput` where an option names a class that the source does not have."""
        points = options.targets == "points" and options.to not in LABEL_FORMATS
        names = classes.names
        kept = {number for written in options.classes for number in _ids(classes, written, "classes")}
        new_names = {
            number: name for written, name in options.rename.items() for number in _ids(classes, written, "rename")
        }
        if names is None:
            renamed = {number: _merged(name, new_names) for number, name in new_names.items()}
            everything = {number: (number, f"class_{number}") for number in kept} | renamed
            chosen = {n: new for n, new in everything.items() if n in kept} if kept else everything
            return cls(None, chosen or None, not kept, options.min_size, points)
        wanted = {number: new_names.get(number, name) for number, name in sorted(names.items())}
        wanted = {number: name for number, name in wanted.items() if not kept or number in kept}
        ids: dict[str, int] = {}
        for number, name in wanted.items():  # merged classes have the lowest id; label formats count from 0
            ids.setdefault(name, len(ids) if options.to in LABEL_FORMATS else number)
        renamed_all = {number: (ids[wanted[number]], wanted[number]) if number in wanted else None for number in names}
        unchanged = all(new == (number, names[number]) for number, new in renamed_all.items())
        new_classes = {number: name for name, number in ids.items()}
        return cls(new_classes, None if unchanged else renamed_all, False, options.min_size, points)

    def chosen(self, targets: Sequence[Target], look: Look) -> tuple[Target, ...]:
        """The objects that are wanted, with their new classes."""
        if self.renamed is not None:
            renamed = ((target, self._renamed(target)) for target in targets)
            targets = [t._replace(class_id=new[0], label=new[1]) for t, new in renamed if new is not None]
        if not self.points:
            targets = [each for each in targets if each.box.x1 < each.box.x2 or each.box.y1 < each.box.y2]
        if self.min_size:
            targets = [target for target in targets if target.is_point or _shorter_side(target, look) >= self.min_size]
        return tuple(targets)

    def left_out(self, targets: Sequence[Target], look: Look) -> list[Finding]:
        """Why objects are not wanted: a finding for each reason, and how many have it."""
        reasons = Counter(fault.code for target in targets if (fault := self._reason(target, look)) is not None)
        return [faults.FAULTS[code].found(count=count) for code, count in reasons.items()]

    def _reason(self, target: Target, look: Look) -> Fault | None:
        if self.renamed is not None and self._renamed(target) is None:
            return faults.OTHER_CLASS
        if target.is_point:
            return None if self.points else faults.POINT_ALONE
        return faults.TOO_SMALL if self.min_size and _shorter_side(target, look) < self.min_size else None

    def _renamed(self, target: Target) -> tuple[int, str] | None:
        assert self.renamed is not None
        same = (target.class_id, target.label) if self.open_ended else None
        return self.renamed.get(target.class_id, same)


def _merged(name: str, new_names: Mapping[int, str]) -> tuple[int, str]:
    """The new id and name in a set without names: the lowest id of those that get the same name."""
    return min(other for other, given in new_names.items() if given == name), name


def _ids(classes: Classes, written: int | str, field: str) -> Sequence[int]:
    """The ids that an option means, by id or by name; a name may have several."""
    names = classes.names
    if isinstance(written, int) or written.isdecimal():
        number = int(written)
        if names is None or number in names:
            return (number,)
    found = [number for number, name in (names or {}).items() if name == written]
    if names is None and isinstance(written, str) and written.removeprefix("class_").isdecimal():
        found = [int(written.removeprefix("class_"))]
    if not found:
        known = ", ".join(f"{number} {name}" for number, name in sorted((names or {}).items())[:20])
        what = f"the source has no class {written!r}"
        raise InvalidInput("A class is not known", [Complaint(field, what, f"it has {known or 'ids alone'}")])
    return found


def _shorter_side(target: Target, look: Look) -> float:
    box = target.box
    return min((box.x2 - box.x1) * look.width, (box.y2 - box.y1) * look.height)
