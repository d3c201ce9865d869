"""A store that is a folder, and jobs that name models in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from control.settings import Settings
from tests.qwen.adapted import manifest
from tests.workers.desks import FolderStore
from vlyard.files import Stored, sha256_of
from vlyard.formats.archive import pack
from workers.context import Context
from workers.models import resolve
from workers.qwen.checkpoint import check_checkpoint
from workers.qwen.manifest import write_manifest
from workers.qwen.warm import Source
from workers.trees import store_tree


@dataclass(frozen=True)
class Shelf(FolderStore):
    """An artefact store that is a folder, and what was fetched from it."""

    fetched: list[str] = field(default_factory=list)

    def fetch(self, file: Stored, path: Path) -> None:
        self.fetched.append(file.name)
        super().fetch(file, path)

    def tree(self, folder: Path) -> Stored:
        return store_tree(self, folder, f"trees/{uuid4()}/{folder.name}", listing=self._scratch(), check=lambda: None)

    def archive(self, folder: Path, name: str) -> Stored:
        packed = self._scratch()
        pack(folder, packed)
        return self.file(packed, name)

    def file(self, path: Path, name: str) -> Stored:
        size, sha256 = self.put(f"files/{uuid4()}", path, "")
        (key,) = [f"files/{each.name}" for each in (self.folder / "files").iterdir() if sha256_of(each) == sha256]
        return Stored(uuid4(), name, "application/zip", key, size, sha256)

    def _scratch(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        return self.folder / f"scratch-{uuid4()}"


@dataclass
class Bench:
    """Settings, a store, and jobs that name what is in it."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.folder / "store")

    def settings(self, **values: Any) -> Settings:
        return Settings(cache_dir=self.folder / "cache", **values)

    def context(
        self, *inputs: Stored, check: Callable[[], None] = lambda: None, named: Mapping[str, UUID] | None = None
    ) -> Context:
        def tell(*words: object) -> None:
            self.said.append(" ".join(map(str, words)))

        given = {each.id: each for each in inputs}
        words: dict[str, Any] = {"say": self.said.append, "named": named or {}}
        return Context(uuid4(), 1, self.folder / "job", given, self.shelf, "job/1", tell, check, **words)

    def found(
        self,
        model: UUID | str,
        *inputs: Stored,
        adapter: UUID | None = None,
        named: Mapping[str, UUID] | None = None,
        **settings: Any,
    ) -> Source:
        with resolve(model, adapter, 1, self.context(*inputs, named=named), self.settings(**settings)) as source:
            check_checkpoint(source.folder)
            return source

    def tuned(self, base: str | None) -> Stored:
        """An adapter as a training stores it, on that base; None: nothing says on which."""
        folder = self.folder / f"adapter-{uuid4()}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        if base is not None:
            write_manifest(folder, manifest(base=base))
        return self.shelf.tree(folder)
