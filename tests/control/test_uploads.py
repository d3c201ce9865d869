"""From the announcement of a file to an artefact that jobs can read."""

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from control import uploads
from control.uploads import stored
from db.models import Artefact, ArtefactState
from tests.system import System
from vlyard.errors import IdempotencyMismatch, InvalidInput, NotFound
from vlyard.jobs.view import NewArtefact


def new(content: bytes = b"picture", name: str = "street.jpg") -> NewArtefact:
    return NewArtefact(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def announce(vlyard: System, file: NewArtefact, key: str | None = None) -> Artefact:
    caller = vlyard.caller()
    with vlyard.database.transaction() as session:
        return uploads.announce(session, caller, file, key)


def send(vlyard: System, row: Artefact, content: bytes, tmp_path: Path) -> None:
    """Put bytes where an artefact's belong without saying their checksum, as a server that keeps none has them."""
    (tmp_path / "file").write_bytes(content)
    vlyard.store.ensure_bucket()
    vlyard.store.put(row.key, tmp_path / "file", row.media_type)


def test_an_announced_file_is_pending_until_its_bytes_were_confirmed(vlyard: System) -> None:
    row, caller = announce(vlyard, new()), vlyard.caller()
    assert row.state is ArtefactState.PENDING
    with vlyard.database.transaction() as session:
        assert uploads.confirm(session, caller, row.id).state is ArtefactState.READY


def test_another_teams_announcement_cannot_be_confirmed(vlyard: System) -> None:
    row, stranger = announce(vlyard, new()), vlyard.caller("other")
    with pytest.raises(NotFound), vlyard.database.transaction() as session:
        uploads.confirm(session, stranger, row.id)


def test_the_same_announcement_twice_is_one_artefact_where_the_key_is_the_same(vlyard: System) -> None:
    first = announce(vlyard, new(), "key")
    assert announce(vlyard, new(), "key").id == first.id
    assert announce(vlyard, new()).id != first.id
    with pytest.raises(IdempotencyMismatch):
        announce(vlyard, new(b"PICTURE"), "key")


@pytest.mark.parametrize("name", [".", "..", "写" * 86], ids=ascii)
def test_a_name_that_no_worker_could_write_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="no file can have this name"):
        new(name=name)


def test_a_name_as_long_as_a_file_system_takes_is_accepted(vlyard: System) -> None:
    assert announce(vlyard, new(name="写" * 85)).name == "写" * 85


def test_bytes_of_which_the_server_keeps_no_checksum_are_read(vlyard: System, tmp_path: Path) -> None:
    row = announce(vlyard, new())
    send(vlyard, row, b"picture", tmp_path)
    uploads.verify(vlyard.store, stored(row))
    send(vlyard, row, b"PICTURE", tmp_path)
    with pytest.raises(InvalidInput, match="/sha256"):
        uploads.verify(vlyard.store, stored(row))


def test_what_is_missing_or_of_another_length_is_told(vlyard: System, tmp_path: Path) -> None:
    row = announce(vlyard, new())
    vlyard.store.ensure_bucket()
    with pytest.raises(InvalidInput, match=r"nothing was uploaded for street\.jpg"):
        uploads.verify(vlyard.store, stored(row))
    send(vlyard, row, b"pict", tmp_path)
    with pytest.raises(InvalidInput, match="/bytes: 7 announced, 4 came"):
        uploads.verify(vlyard.store, stored(row))
