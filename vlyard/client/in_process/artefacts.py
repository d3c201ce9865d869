"""The artefacts of a VLyard in memory: announced, sent, completed, read. Knows no jobs and no HTTP."""

import hashlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from uuid import UUID, uuid4

from vlyard.errors import Complaint, Conflict, InvalidInput, NotFound
from vlyard.files import ArtefactKind
from vlyard.jobs.view import Artefact, ManifestEntry, ManifestPage, Missing, NewArtefact, NewTree, Piece, Upload
from vlyard.trees import MEDIA_TYPE, TreeFile, manifest_of, sha256_hex

_LINK_SECONDS = 900


class Artefacts:
    """Every artefact, and the bytes of each. `url` is where their bytes are sent and fetched."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._rows: dict[UUID, Artefact] = {}
        self._trees: dict[UUID, Sequence[TreeFile]] = {}
        self._bytes: dict[tuple[UUID, str], bytes] = {}  # by artefact, and the digest that they shall have

    # --- what clients ask for ---------------------------------------------------------------------------------

    def announce(self, new: NewArtefact) -> Artefact:
        """A file to come, with the link to send it to."""
        kept = new.model_dump(include={"name", "bytes", "sha256", "media_type"})
        row = self._keep(Artefact(id=uuid4(), state="pending", created_at=datetime.now(UTC), **kept))
        headers = {"Content-Type": new.media_type}
        return row.model_copy(
            update={"upload": Upload(url=self._link(row.id, new.sha256), headers=headers, expires_in=_LINK_SECONDS)}
        )

    def announce_tree(self, new: NewTree) -> Artefact:
        """A directory to come. Raises `InvalidInput` that names files which cannot be in one."""
        manifest = manifest_of(new.files)
        row = Artefact(
            id=uuid4(),
            kind=ArtefactKind.TREE,
            name=new.name,
            media_type=MEDIA_TYPE,
            bytes=sum(file.bytes for file in new.files),
            sha256=sha256_hex(manifest),
            state="pending",
            created_at=datetime.now(UTC),
        )
        self._trees[row.id] = sorted(new.files, key=lambda file: file.path)
        self._bytes[row.id, row.sha256] = manifest
        return self._keep(row)

    def missing(self, id: UUID, limit: int) -> Missing:
        """What an upload lacks: each different file once."""
        pieces = [
            Piece(path=path, offset=0, bytes=size, url=self._link(id, digest), headers={})
            for digest, (path, size) in self._lacking(self._row(id)).items()
        ]
        total = sum(piece.bytes for piece in pieces)
        return Missing(data=tuple(pieces[:limit]), pieces=len(pieces), bytes=total, expires_in=_LINK_SECONDS)

    def complete(self, id: UUID) -> Artefact:
        """Check that everything is there; from then on it can be read."""
        row = self._row(id)
        if row.state == "pending" and (lacking := self._lacking(row)):
            if row.kind is ArtefactKind.FILE:
                raise InvalidInput(f"nothing was uploaded for {row.name}: PUT its bytes to the upload URL first")
            fix = "ask for what is missing, and send it"
            complaints = [Complaint(str(path), "nothing was uploaded", fix) for path, _ in lacking.values()]
            raise InvalidInput(f"{row.name} is not the directory that was announced", complaints)
        return self.look(self._keep(row.model_copy(update={"state": "ready"})).id)

    def look(self, id: UUID) -> Artefact:
        """An artefact, with a link to its bytes once they are there."""
        row = self._row(id)
        if row.state == "pending":
            return row
        link = "manifest_url" if row.kind is ArtefactKind.TREE else "download_url"
        return row.model_copy(update={link: self._link(id, row.sha256)})

    def manifest(self, id: UUID, after: int, limit: int, *, links: bool) -> ManifestPage:
        """The files of a tree, by path."""
        files = self._tree(id)
        chosen = [
            ManifestEntry(**file.model_dump(), url=self._link(id, file.sha256) if links else None)
            for file in files[after : after + limit]
        ]
        return ManifestPage(data=tuple(chosen), next_after=after + limit if after + limit < len(files) else None)

    def zip(self, id: UUID) -> bytes:
        """A tree as one zip."""
        content = BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for file in self._tree(id):
                archive.writestr(zipfile.ZipInfo(file.path), self._bytes[id, file.sha256])
        return content.getvalue()

    def link_to(self, id: UUID) -> str:
        """Where the content is; of a tree, its zip."""
        row = self.ready(id)
        return f"{self._url}/v1/artefacts/{id}/zip" if row.kind is ArtefactKind.TREE else self._link(id, row.sha256)

    # --- what comes and goes by links -------------------------------------------------------------------------

    def put(self, id: UUID, digest: str, content: bytes) -> bool:
        """Keep what was sent to a link; false where these are not the bytes that the link is for."""
        fits = hashlib.sha256(content).hexdigest() == digest
        if fits:
            self._bytes[id, digest] = content
        return fits

    def get(self, id: UUID, digest: str) -> bytes | None:
        """What a link leads to."""
        return self._bytes.get((id, digest))

    # --- what jobs do -----------------------------------------------------------------------------------------

    def made(self, job: UUID) -> Sequence[Artefact]:
        """What a job made, oldest first."""
        return [self.look(row.id) for row in self._rows.values() if row.job == job]

    def add(self, name: str, content: bytes, media_type: str, job: UUID | None = None) -> UUID:
        """Keep a file that nobody uploads; returns its artefact's id."""
        digest = hashlib.sha256(content).hexdigest()
        row = Artefact(
            id=uuid4(),
            name=name,
            media_type=media_type,
            bytes=len(content),
            sha256=digest,
            state="ready",
            job=job,
            created_at=datetime.now(UTC),
        )
        self._bytes[row.id, digest] = content
        return self._keep(row).id

    def contents(self, id: UUID) -> Mapping[str, bytes]:
        """The bytes of every file: of a tree by their paths, of a file by its name."""
        row = self.ready(id)
        if row.kind is ArtefactKind.FILE:
            return {row.name: self._bytes[id, row.sha256]}
        return {file.path: self._bytes[id, file.sha256] for file in self._trees[id]}

    def unusable(self, id: UUID, pointer: str, *, tree_is_fine: bool) -> Iterable[Complaint]:
        """Why a job cannot read that, which its specification names there."""
        row = self._rows.get(id)
        if row is None or row.state == "pending":
            fix = "upload it, complete the upload, then name its id here"
            yield Complaint(pointer, f"there is no artefact {id} that is ready", fix)
        elif row.kind is ArtefactKind.TREE and not tree_is_fine:
            yield Complaint(pointer, f"the artefact {id} is a directory", "name a file")

    def ready(self, id: UUID) -> Artefact:
        """An artefact that can be read. Raises `NotFound`, and `Conflict` for one that cannot."""
        row = self._row(id)
        if row.state == "pending":
            raise Conflict("the upload of this artefact was never completed")
        return row

    # --- within -----------------------------------------------------------------------------------------------

    def _row(self, id: UUID) -> Artefact:
        if id not in self._rows:
            raise NotFound(f"there is no artefact {id}")
        return self._rows[id]

    def _tree(self, id: UUID) -> Sequence[TreeFile]:
        if self._row(id).kind is not ArtefactKind.TREE:
            raise Conflict("this artefact is a file and not a directory: download its content")
        return self._trees[self.ready(id).id]

    def _keep(self, row: Artefact) -> Artefact:
        self._rows[row.id] = row
        return row

    def _lacking(self, row: Artefact) -> Mapping[str, tuple[str | None, int]]:
        """The (path, length) of what is not there, by its digest."""
        files = self._trees.get(row.id)
        wanted = {row.sha256: (None, row.bytes)} if files is None else {f.sha256: (f.path, f.bytes) for f in files}
        return {digest: facts for digest, facts in wanted.items() if (row.id, digest) not in self._bytes}

    def _link(self, id: UUID, digest: str) -> str:
        return f"{self._url}/objects/{id}/{digest}"
