"""How a client's file or directory becomes an artefact: announced, sent straight to S3 in pieces, then checked.

What is there already is asked of S3 each time and stored nowhere else, so that an upload goes on wherever it stopped,
whoever stopped. No database session is held while S3 is spoken to.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from uuid import UUID

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control.accounts import Caller
from control.artefacts import ArtefactStore
from db import artefacts, idempotency
from db.models import Artefact, ArtefactState
from db.owned import owned_row
from vlyard.errors import Complaint, InvalidInput
from vlyard.files import ArtefactKind, Stored
from vlyard.jobs.view import Missing, NewArtefact, NewTree, Piece
from vlyard.trees import MANIFEST, MEDIA_TYPE, file_key, files_prefix, manifest_of, read_manifest, sha256_hex

_MOST_PARTS = 10_000  # docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_CHECKS_AT_ONCE = 8
_MOST_COMPLAINTS = 20
_OCTETS = "application/octet-stream"
_MIB = 2**20


@dataclass(frozen=True)
class Open:
    """An object of which S3 collects the parts."""

    upload: str
    part_bytes: int


@dataclass(frozen=True)
class Pending:
    """An upload, as the database knows it."""

    file: Stored
    is_ready: bool
    opened: Mapping[str, Open]  # by key


@dataclass(frozen=True)
class Gap:
    """Bytes that are not in the store yet, and travel in one PUT."""

    object: Stored
    part: int | None  # None where the object travels whole
    offset: int
    bytes: int
    part_bytes: int


@dataclass(frozen=True)
class Lack:
    """All that an upload lacks, and which of the uploads that it had opened are none any more."""

    gaps: Sequence[Gap]
    stale: frozenset[str]  # keys


# --- announcing -----------------------------------------------------------------------------------------------


def announce(session: Session, caller: Caller, new: NewArtefact, idempotency_key: str | None) -> Artefact:
    """Store that a file is about to come; its bytes go to the store without passing through the API."""
    facts = new.model_dump(exclude={"resume"}) | {"kind": ArtefactKind.FILE}
    return _announce(session, caller, new, facts, idempotency_key)


def announce_tree(session: Session, caller: Caller, new: NewTree, idempotency_key: str | None) -> Artefact:
    """Store that a directory is about to come. Raises `InvalidInput` that names files which cannot be in one."""
    manifest = manifest_of(new.files)
    facts = {
        "name": new.name,
        "kind": ArtefactKind.TREE,
        "media_type": MEDIA_TYPE,
        "bytes": sum(file.bytes for file in new.files),
        "sha256": sha256_hex(manifest),
    }
    return _announce(session, caller, new, facts, idempotency_key)


def _announce(
    session: Session, caller: Caller, new: NewArtefact | NewTree, facts: Mapping[str, object], key: str | None
) -> Artefact:
    going = artefacts.resumable(session, caller.team, facts) if new.resume else None
    identity = going.id if going else uuid7()
    if key is not None:
        digest = sha256(new.model_dump_json().encode()).hexdigest()
        # What an earlier try announced may have been swept since then; it is announced again under its id.
        identity = idempotency.remember(session, caller.team, key, digest, identity)
    file = MANIFEST if facts["kind"] is ArtefactKind.TREE else facts["name"]
    place = f"teams/{caller.team}/uploads/{identity}/{file}"
    artefacts.ensure_pending(session, {**facts, "id": identity, "team_id": caller.team, "key": place})
    return owned_row(session, Artefact, caller.team, identity)


def stored(row: Artefact) -> Stored:
    """The artefact as the store knows it."""
    return Stored(row.id, row.name, row.media_type, row.key, row.bytes, row.sha256, row.kind)


# --- what is missing ------------------------------------------------------------------------------------------


def pending(session: Session, caller: Caller, artefact: UUID) -> Pending:
    """An upload as the database knows it; notes that its client is still there."""
    row = owned_row(session, Artefact, caller.team, artefact)
    if row.state is ArtefactState.READY:
        return Pending(stored(row), is_ready=True, opened={})
    artefacts.note_asked(session, row.id)
    return Pending(stored(row), is_ready=False, opened=_opened(session, row.id))


def _opened(session: Session, artefact: UUID) -> Mapping[str, Open]:
    return {row.key: Open(row.upload, row.part_bytes) for row in artefacts.open_uploads(session, artefact)}


def part_size(length: int, part_bytes: int) -> int | None:
    """How many bytes each part of a file has, when parts shall have `part_bytes`; None where it travels whole."""
    if length <= part_bytes:
        return None
    needed = -(-length // _MOST_PARTS)
    return max(part_bytes, -(-needed // _MIB) * _MIB)


def lack(store: ArtefactStore, upload: Pending, part_bytes: int) -> Lack:
    """What an upload lacks, as S3 knows it. `part_bytes` is the size of the parts of what was not begun yet."""
    if upload.is_ready:
        return Lack((), frozenset())
    objects = _objects(store, upload.file)
    there = _present(store, upload.file)
    gaps: list[Gap] = []
    stale = set()
    for each in objects:
        if there.get(each.key) == each.bytes:
            continue
        opened = upload.opened.get(each.key)
        size = opened.part_bytes if opened else part_size(each.bytes, part_bytes)
        if size is None:
            gaps.append(Gap(each, None, 0, each.bytes, 0))
            continue
        parts = store.parts(each.key, opened.upload) if opened else {}
        if parts is None:
            stale.add(each.key)
        lengths = {number: part.bytes for number, part in (parts or {}).items()}
        gaps += (gap for gap in _divided(each, size) if lengths.get(gap.part or 0) != gap.bytes)
    return Lack(gaps, frozenset(stale))


def _divided(file: Stored, size: int) -> Iterator[Gap]:
    for number, offset in enumerate(range(0, file.bytes, size), 1):
        yield Gap(file, number, offset, min(size, file.bytes - offset), size)


def _objects(store: ArtefactStore, file: Stored) -> Sequence[Stored]:
    """What has to be in the store: the file, or each different file of the tree once, under one of its paths."""
    if file.kind is ArtefactKind.FILE:
        return [file]
    content = b"".join(store.read(file.key))
    keys = {file_key(file.key, each.sha256): each for each in read_manifest(content)}
    return [Stored(file.id, each.path, _OCTETS, key, each.bytes, each.sha256) for key, each in keys.items()]


def _present(store: ArtefactStore, file: Stored) -> Mapping[str, int]:
    if file.kind is ArtefactKind.TREE:
        return dict(store.listed(files_prefix(file.key)))
    found = store.head(file.key)
    return {file.key: found[0]} if found else {}


def begin(store: ArtefactStore, upload: Pending, lacking: Lack, limit: int) -> Mapping[str, Open]:
    """Have S3 begin to collect the parts of what comes in parts among the first gaps, where it does not yet."""
    known = upload.opened.keys() - lacking.stale
    fresh = {gap.object.key: gap for gap in lacking.gaps[:limit] if gap.part and gap.object.key not in known}
    return {key: Open(store.open_multipart(key, gap.object.media_type), gap.part_bytes) for key, gap in fresh.items()}


def note_begun(
    session: Session, caller: Caller, upload: Pending, lacking: Lack, begun: Mapping[str, Open]
) -> Mapping[str, Open]:
    """Remember what S3 collects parts of; returns what counts, where others began the same at the same time."""
    owned_row(session, Artefact, caller.team, upload.file.id, lock=True)  # it could be swept meanwhile
    artefacts.forget_uploads(session, {key: upload.opened[key].upload for key in lacking.stale})
    artefacts.insert_uploads(
        session,
        [
            {"key": key, "artefact_id": upload.file.id, "upload": each.upload, "part_bytes": each.part_bytes}
            for key, each in begun.items()
        ],
    )
    return _opened(session, upload.file.id)


def drop_doubled(store: ArtefactStore, begun: Mapping[str, Open], opened: Mapping[str, Open]) -> None:
    """Give up what was begun where others had begun the same."""
    for key, each in begun.items():
        if key not in opened or opened[key].upload != each.upload:
            store.abort(key, each.upload)


def missing(
    store: ArtefactStore,
    upload: Pending,
    lacking: Lack,
    opened: Mapping[str, Open],
    *,
    expires_in: int,
    limit: int,
) -> Missing:
    """What an upload lacks, with links to send the first of it."""
    return Missing(
        data=tuple(_piece(store, upload.file, gap, opened) for gap in lacking.gaps[:limit]),
        pieces=len(lacking.gaps),
        bytes=sum(gap.bytes for gap in lacking.gaps),
        expires_in=expires_in,
    )


def _piece(store: ArtefactStore, file: Stored, gap: Gap, opened: Mapping[str, Open]) -> Piece:
    if gap.part is None:
        url, headers = store.upload_link(gap.object)
    else:
        url, headers = store.part_link(gap.object.key, opened[gap.object.key].upload, gap.part, gap.bytes)
    path = gap.object.name if file.kind is ArtefactKind.TREE else None
    return Piece(path=path, part=gap.part, offset=gap.offset, bytes=gap.bytes, url=url, headers=headers)


# --- completing -----------------------------------------------------------------------------------------------


def settle(store: ArtefactStore, upload: Pending) -> None:
    """Put together what came in parts, and check that the bytes in the store are the announced ones.

    Raises `InvalidInput` that says what is missing or how it differs; what differs is removed, to be sent again.
    """
    if upload.is_ready:
        return
    objects = _objects(store, upload.file)
    there = _present(store, upload.file) if upload.opened else {}
    apart = [each for each in objects if each.key in upload.opened and there.get(each.key) != each.bytes]
    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as threads:
        found = threads.map(lambda each: list(_join(store, each, upload.opened[each.key])), apart)
        complaints = [complaint for each in found for complaint in each]
    if complaints:
        raise InvalidInput(f"not all of {upload.file.name} was uploaded", complaints[:_MOST_COMPLAINTS])
    if upload.file.kind is ArtefactKind.FILE:
        verify(store, upload.file)
    else:
        _verify_all(store, upload.file, objects)


def _join(store: ArtefactStore, file: Stored, opened: Open) -> Iterator[Complaint]:
    parts = store.parts(file.key, opened.upload)
    if parts is None:
        yield Complaint(file.name, "nothing was uploaded", "ask for what is missing, and send it")
        return
    lengths = {number: part.bytes for number, part in parts.items()}
    absent = [gap for gap in _divided(file, opened.part_bytes) if lengths.get(gap.part or 0) != gap.bytes]
    for gap in absent:
        yield Complaint(f"{file.name}, part {gap.part}", "it is missing", "ask for what is missing, and send it")
    if not absent:
        expected = {gap.part for gap in _divided(file, opened.part_bytes)}
        store.join(file.key, opened.upload, {number: part for number, part in parts.items() if number in expected})


def verify(store: ArtefactStore, file: Stored) -> None:
    """Check that the bytes in the store are the announced ones; raises `InvalidInput` that says how they differ.

    Other bytes are removed: with them there, nobody would see that the right ones are missing.
    """
    found = store.head(file.key)
    if found is None:
        raise InvalidInput(f"nothing was uploaded for {file.name}: PUT its bytes to the upload URL first")
    size, digest = found
    complaint = None
    if size != file.bytes:
        complaint = Complaint("/bytes", f"{file.bytes} announced, {size} came", "upload the whole file")
    else:
        digest = digest or _digest(store.read(file.key))  # where this S3 server keeps no checksum, the bytes are read
        if digest != file.sha256:
            what = f"{file.sha256} announced, {digest} came"
            complaint = Complaint("/sha256", what, "upload the file that was announced")
    if complaint is not None:
        store.delete(file.key)
        raise InvalidInput("the upload differs", [complaint])


def _digest(pieces: Iterable[bytes]) -> str:
    digest = sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _verify_all(store: ArtefactStore, tree: Stored, files: Sequence[Stored]) -> None:
    def complaints_of(file: Stored) -> Sequence[Complaint]:
        try:
            verify(store, file)
        except InvalidInput as error:
            found = error.complaints or (Complaint("", "nothing was uploaded", "ask for what is missing, and send it"),)
            return [replace(each, where=f"{file.name}{each.where}") for each in found]
        return []

    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as threads:
        complaints = [each for found in threads.map(complaints_of, files) for each in found]
    if complaints:
        raise InvalidInput(f"{tree.name} is not the directory that was announced", complaints[:_MOST_COMPLAINTS])


def confirm(session: Session, caller: Caller, artefact: UUID, idempotency_key: str | None = None) -> Artefact:
    """Record that an artefact's bytes have been verified. Doing it again is doing it once, with a key or without."""
    if idempotency_key is not None:
        digest = sha256(f"complete {artefact}".encode()).hexdigest()
        idempotency.remember(session, caller.team, idempotency_key, digest, artefact)
    row = owned_row(session, Artefact, caller.team, artefact, lock=True)
    row.state = ArtefactState.READY
    artefacts.forget_uploads_of(session, artefact)
    session.flush()
    return row
