"""Models of one size for tests of what stays in memory, and how often each was loaded."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.qwen.adapted import make_adapter
from workers.qwen.loading import LoadedModel, load_model
from workers.qwen.sharing import put_on
from workers.qwen.warm import Source, WarmModels


@dataclass
class Bell:
    """What is kept with a model: it tells when it is closed."""

    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Yard:
    """Three models of one size, and how often each was loaded."""

    folders: list[Path]
    loads: list[str] = field(default_factory=list)

    @property
    def sources(self) -> list[Source]:
        return [Source(folder) for folder in self.folders]

    def load(self, source: Source, base: LoadedModel | None = None) -> LoadedModel:
        self.loads.append((source.adapter or source.folder).name)
        if base is not None and source.adapter is not None:
            return put_on(base, source.adapter)
        return load_model(source.folder, source.adapter, source.gpus)

    def models(self, room: float, fair_after: float = 10, beside: float = 0) -> WarmModels[Bell]:
        """With room for so many of them; `beside`: what is kept with each may take so many times a model's memory."""
        size = load_model(self.folders[0]).bytes
        return WarmModels(int(room * size), self.load, lambda _: Bell(), fair_after, int(beside * size))

    def adapter(self, name: str, of: int = 0, **settings: object) -> Source:
        """A new adapter on one of the models."""
        make_adapter(self.folders[of], self.folders[of].with_name(name), **settings)
        return Source(self.folders[of], self.folders[of].with_name(name))


def lay_out(model: Path, folder: Path) -> Yard:
    """A yard with three copies of a model."""
    return Yard([Path(shutil.copytree(model, folder / name)) for name in ("one", "two", "three")])
