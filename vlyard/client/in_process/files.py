"""What a handler of a VLyard in memory is given besides its specification."""

from collections.abc import Callable, Mapping
from uuid import UUID

from vlyard.client.in_process.artefacts import Artefacts
from vlyard.errors import InvalidInput

Tell = Callable[[float | None, str], None]


class Files:
    """A job's inputs by their ids, and a place for what it makes and says."""

    def __init__(
        self, artefacts: Artefacts, job: UUID, inputs: frozenset[UUID], tell: Tell, say: Callable[[str], None]
    ):
        self._artefacts = artefacts
        self._job = job
        self._inputs = inputs
        self._tell = tell
        self._say = say

    def __getitem__(self, artefact: UUID) -> bytes:
        """The bytes of an input of the job, which is a file."""
        files = self.tree(artefact)
        if len(files) != 1:
            raise InvalidInput(f"the artefact {artefact} is a directory of {len(files)} files: read it with tree()")
        return next(iter(files.values()))

    def tree(self, artefact: UUID) -> Mapping[str, bytes]:
        """Every file of an input of the job by its path; a single file by its name."""
        if artefact not in self._inputs:
            raise InvalidInput(f"the job names no artefact {artefact} as its input")
        return self._artefacts.contents(artefact)

    def add(self, name: str, content: bytes | str, media_type: str = "application/octet-stream") -> UUID:
        """Store a file as an output of the job; returns its artefact's id, to be named in the result."""
        data = content.encode() if isinstance(content, str) else content
        return self._artefacts.add(name, data, media_type, self._job)

    def progress(self, fraction: float | None = None, text: str = "") -> None:
        """Say how far the job is."""
        self._tell(fraction, text)

    def say(self, line: str) -> None:
        """Write a line to the job's log."""
        self._say(line if line.endswith("\n") else f"{line}\n")
