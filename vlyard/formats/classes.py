"""The classes of a data set: their names by id. It knows no label format."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MOST_UNNAMED = 100_000  # classes of a set without names: an output names all up to the highest id


@dataclass(frozen=True)
class Classes:
    """The names of the classes by id; `names` is None where the data set has none, and every id >= 0 is allowed."""

    names: Mapping[int, str] | None

    @classmethod
    def named(cls, labels: Iterable[str]) -> "Classes":
        """The distinct labels, numbered from 0 in their sorted order: for formats that have no ids."""
        return cls(dict(enumerate(sorted(set(labels)))))

    def label(self, class_id: int) -> str | None:
        """The class's name, `class_<id>` in a set without names, None where there is no such class."""
        if self.names is None:
            return f"class_{class_id}" if 0 <= class_id < MOST_UNNAMED else None
        return self.names.get(class_id)

    @property
    def known(self) -> str:
        """The ids that exist, in words."""
        if not self.names:
            return f"without names they are 0 to {MOST_UNNAMED - 1}"
        return f"the ids are {min(self.names)} to {max(self.names)}"
