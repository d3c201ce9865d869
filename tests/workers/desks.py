"""Where a test lays files down and has a handler work on them: real models, and a store that is a folder."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from control.settings import Settings
from vlyard.files import Stored, sha256_of
from workers.asking import Models, make_models
from workers.context import Context
from workers.trees import store_tree


def _never() -> None:
    """Nobody stops the work."""


@dataclass(frozen=True)
class FolderStore:
    """An artefact store that is a folder."""

    folder: Path

    def fetch(self, file: Stored, path: Path) -> None:
        shutil.copyfile(self.folder / file.key, path)

    def fetch_each(self, files: Mapping[Path, Stored], told: Callable[[int], None]) -> None:
        for path, file in files.items():
            told(0)
            self.fetch(file, path)

    def put(self, key: str, path: Path, media_type: str) -> tuple[int, str]:  # noqa: ARG002 - a folder keeps no types
        target = self.folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return target.stat().st_size, sha256_of(target)

    def content(self, file: Stored) -> bytes:
        return (self.folder / file.key).read_bytes()


@dataclass
class Desk:
    """Files of one test, and the models that are asked about them."""

    folder: Path
    given: dict[UUID, Stored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = FolderStore(self.folder / "store")
        (self.folder / "models").mkdir()
        settings = Settings(models_dir=self.folder / "models", cache_dir=self.folder / "cache")
        self.models: Models = make_models(settings)

    def lay_down(self, content: bytes | Path, name: str) -> UUID:
        """A file, or a folder with all in it; returns its id."""
        path = content if isinstance(content, Path) else self.folder / str(uuid4())
        if isinstance(content, bytes):
            path.write_bytes(content)
        id, key = uuid4(), f"given/{uuid4()}"
        if path.is_dir():
            self.given[id] = store_tree(self.store, path, key, listing=self.folder / f"{id}.json", check=_never)
        else:
            size, sha256 = self.store.put(key, path, "")
            self.given[id] = Stored(id, name, "application/octet-stream", key, size, sha256)
        return id

    def context(self, check: Callable[[], None] = _never) -> Context:
        """An attempt that may read all that was laid down."""
        scratch = self.folder / "scratch" / str(uuid4())
        scratch.parent.mkdir(exist_ok=True)
        return Context(uuid4(), 1, scratch, dict(self.given), self.store, "job/1", lambda *_: None, check)
