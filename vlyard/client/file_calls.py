"""The client's calls about files: what jobs made, uploads and downloads."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from vlyard.client import downloading, uploading
from vlyard.client.connection import Connection, checked_id
from vlyard.client.transfer import Told, untold
from vlyard.jobs.output import Artefacts
from vlyard.jobs.view import Artefact
from vlyard.trees import TreeFile


class FileCalls(Connection):
    """Artefacts."""

    def artefact(self, id: UUID | str) -> Artefact:
        """Look at an artefact; the answer carries a short-lived link to its content."""
        return self._call(Artefact, "GET", f"/v1/artefacts/{checked_id(id)}")

    def artefacts(self, job: UUID | str) -> tuple[Artefact, ...]:
        """The files that a job made, oldest first: its outputs, and the logs of its attempts as `log.txt`."""
        return self._call(Artefacts, "GET", f"/v1/jobs/{checked_id(job)}/artefacts").data

    def upload(
        self,
        path: Path | str,
        name: str | None = None,
        media_type: str | None = None,
        *,
        on_progress: Told = untold,
    ) -> Artefact:
        """Store a file, streamed, and have its length and SHA-256 checked; returns the artefact, ready for use.

        `name` and `media_type` default to the file's own name and what it suggests. A large file travels in parts, and
        an upload of it that was cut short goes on where it stopped. `on_progress` is called with the bytes that have
        left, and all; where a piece has to be sent again, that is fewer than before.
        """
        return uploading.upload_file(self._wire, Path(path), name, media_type, on_progress)

    def upload_tree(self, folder: Path | str, name: str | None = None, *, on_progress: Told = untold) -> Artefact:
        """Store a folder with all files below it as one artefact, as `upload` does a file.

        Raises `InvalidInput` that names what cannot be in a tree: links to folders, devices, more than 20,000 files.
        """
        return uploading.upload_folder(self._wire, Path(folder), name, on_progress)

    def files(self, artefact_id: UUID | str) -> Iterator[TreeFile]:
        """The files of a tree, by path."""
        return downloading.files(self._wire, checked_id(artefact_id))

    def download(
        self,
        artefact_id: UUID | str,
        path: Path | str = ".",
        *,
        as_zip: bool = False,
        on_progress: Told = untold,
    ) -> Path:
        """Fetch an artefact's content into a file, or under its own name into a folder; returns the file.

        A text that ends with a slash means a folder, which is made. The file appears once its length and SHA-256 are
        right, in place of what was there, or not at all. What came of a download that was cut short waits beside it,
        and the next one goes on from there. A tree is written below the folder `path`, or by default into one of its
        own name; files that are right already are left alone. With `as_zip` it comes as one zip. `on_progress` is
        called with the bytes that are there, and all. Raises `InvalidInput` where the bytes are not the artefact's.
        """
        id = checked_id(artefact_id)
        return downloading.download(self._wire, id, path, as_zip=as_zip, told=on_progress)
