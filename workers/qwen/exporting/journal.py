"""What a merge has finished, so that it goes on there after it was killed.

A journal is of one input: where the base, the adapter or what is wanted differ, it counts for nothing.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.qwen.exporting.digest import sha256_of
from workers.qwen.exporting.shards import Shard

JOURNAL = "merging.journal.json"


class Journal:
    """The finished files of a folder with their SHA-256."""

    def __init__(self, folder: Path, of: str, path: Path | None = None) -> None:
        """`of` says what is merged, as `fingerprint` does. Files that are not as they were are forgotten.

        It lies at `path`, by default in the folder.
        """
        self._path = path or folder / JOURNAL
        self._folder = folder
        self._of = of
        self.sums = {
            name: digest
            for name, digest in self._known().items()
            if (folder / name).is_file() and sha256_of(folder / name) == digest
        }

    def has(self, name: str) -> bool:
        return name in self.sums

    def finished(self, name: str, digest: str) -> None:
        """Note a file, and from then on it is not written again. It lies under the name `<name>.partial` until now."""
        (self._folder / f"{name}.partial").replace(self._folder / name)
        self.sums[name] = digest
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"of": self._of, "sums": self.sums}), encoding="utf-8")
        new.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _known(self) -> dict[str, str]:
        try:
            content = json.loads(self._path.read_bytes())
            return dict(content["sums"]) if content["of"] == self._of else {}
        except (OSError, ValueError, LookupError, TypeError):
            return {}  # there is none, or it was cut off: everything is written again


def fingerprint(base: Path, adapter: Path | None, wanted: object, shards: Sequence[Shard]) -> str:
    """What is merged, as a short text: equal for the same files as they lay, with the same wishes."""
    digest = hashlib.sha256(repr((wanted, shards)).encode())
    for folder in (base, adapter):
        for line in _lines(folder) if folder else ():
            digest.update(line.encode())
    return digest.hexdigest()


def _lines(folder: Path) -> Iterator[str]:
    for file in sorted(folder.iterdir()):
        if file.is_file():
            about = file.stat()
            yield f"{file.name} {about.st_size} {about.st_mtime_ns}\n"
