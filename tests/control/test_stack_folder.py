"""The data folder of a stack: one holder at a time, and a memory for ports and secrets."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.stack.folder import taken
from vlyard.errors import Conflict


@contextmanager
def occupied(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def test_a_taken_port_is_replaced_and_said_and_a_free_one_is_kept(tmp_path: Path) -> None:
    said: list[str] = []
    with taken(tmp_path, said.append) as folder:
        kept = folder.port("api")
        assert folder.port("api") == kept
        with occupied(kept):
            other = folder.port("api")

        assert other != kept
        assert said == [f"port {kept} of api is taken: api uses {other} from now on"]
        assert folder.port("api") == other


def test_a_folder_in_use_is_refused_with_the_process_and_the_url(tmp_path: Path) -> None:
    with taken(tmp_path) as folder:
        folder.announce("http://127.0.0.1:8080")

        with pytest.raises(Conflict) as refusal, taken(tmp_path):
            pass

    assert f"process {os.getpid()} at http://127.0.0.1:8080" in str(refusal.value)
    with taken(tmp_path):  # and is free again afterwards
        pass


def test_secrets_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    with taken(tmp_path) as folder:
        first = folder.secret("valkey")
        other = folder.secret("postgres")

    with taken(tmp_path) as folder:
        assert folder.secret("valkey") == first
        assert folder.secret("postgres") == other != first
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_port_that_is_asked_for_is_had_or_refused(tmp_path: Path) -> None:
    with taken(tmp_path) as folder:
        first, wanted = folder.port("api"), folder.port("flower")
        with occupied(wanted), pytest.raises(Conflict, match=f"port {wanted} is taken"):
            folder.insist("api", wanted)
        assert folder.port("api") == first

        folder.insist("api", wanted)

        assert folder.port("api") == wanted
