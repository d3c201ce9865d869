"""Downloads that are cut short: what has come stays, is told of, and the next try goes on from there."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from vlyard import Client, InProcess
from vlyard.client.partial import partial_of
from vlyard.errors import Unavailable

CONTENT = os.urandom(3 << 20)
CUT = 1 << 20  # bytes after which a connection breaks off


class Breaking(InProcess):
    """Breaks the connection off while a file is fetched, as often as `cuts` says."""

    def __init__(self) -> None:
        super().__init__({})
        self.cuts = 0
        self.ranges: list[str] = []
        self.after = CUT
        self.serves_parts = True
        self.trouble: type[httpx.HTTPError] = httpx.ReadError  # which is tried again

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "GET" or not request.url.path.startswith("/objects/"):
            return super().handle_request(request)
        self.ranges.append(request.headers.get("Range", ""))
        if not self.serves_parts:
            request.headers.pop("Range", None)
        reply = super().handle_request(request)
        if self.cuts:
            self.cuts -= 1
            return httpx.Response(reply.status_code, headers=reply.headers, content=self._cut(reply.read()))
        return reply

    def _cut(self, data: bytes) -> Iterator[bytes]:
        yield data[: self.after]
        raise self.trouble("the line went dead")


@pytest.fixture
def api() -> Breaking:
    return Breaking()


@pytest.fixture
def client(api: Breaking) -> Iterator[Client]:
    with Client(transport=api) as client:
        yield client


@pytest.fixture
def artefact(client: Client, tmp_path: Path) -> UUID:
    (tmp_path / "sent").write_bytes(CONTENT)
    return client.upload(tmp_path / "sent").id


def left(folder: Path) -> list[int]:
    """The lengths of what waits beside the files of a folder."""
    return [path.stat().st_size for path in folder.glob(".vlyard-*.part")]


def test_a_broken_connection_costs_only_what_had_not_come(
    api: Breaking, client: Client, artefact: UUID, tmp_path: Path
) -> None:
    api.cuts = 2
    assert client.download(artefact, tmp_path / "back").read_bytes() == CONTENT
    assert api.ranges == ["", f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert left(tmp_path) == []


def test_a_line_that_breaks_again_and_again_is_no_reason_to_give_up_while_something_comes(
    api: Breaking, client: Client, artefact: UUID, tmp_path: Path
) -> None:
    api.cuts, api.after = 11, CUT // 4
    assert client.download(artefact, tmp_path / "back").read_bytes() == CONTENT
    assert len(api.ranges) == 12


def test_a_download_that_was_given_up_goes_on_the_next_time(
    api: Breaking, client: Client, artefact: UUID, tmp_path: Path
) -> None:
    api.cuts, api.trouble = 1, httpx.LocalProtocolError  # which is not
    with pytest.raises(Unavailable, match="the line went dead"):
        client.download(artefact, tmp_path / "back")
    assert (left(tmp_path), (tmp_path / "back").exists()) == ([CUT], False)
    api.ranges = []
    assert client.download(artefact, tmp_path / "back").read_bytes() == CONTENT
    assert (api.ranges, left(tmp_path)) == ([f"bytes={CUT}-"], [])


def test_a_server_that_serves_no_parts_serves_all(
    api: Breaking, client: Client, artefact: UUID, tmp_path: Path
) -> None:
    api.serves_parts, api.cuts = False, 1
    assert client.download(artefact, tmp_path / "back").read_bytes() == CONTENT


def test_what_waited_and_is_wrong_is_thrown_away_and_fetched_anew(
    api: Breaking, client: Client, artefact: UUID, tmp_path: Path
) -> None:
    name = f".vlyard-{hashlib.sha256(CONTENT).hexdigest()[:32]}.part"
    for rubbish in (b"rubbish", b"r" * len(CONTENT), b"r" * (len(CONTENT) + 1)):
        (tmp_path / name).write_bytes(rubbish)
        assert client.download(artefact, tmp_path / "back").read_bytes() == CONTENT
        assert left(tmp_path) == []
    assert api.ranges == ["bytes=7-", "", "", ""]


def test_what_waits_complete_needs_no_server(api: Breaking, client: Client, artefact: UUID, tmp_path: Path) -> None:
    (tmp_path / f".vlyard-{hashlib.sha256(CONTENT).hexdigest()[:32]}.part").write_bytes(CONTENT)
    assert client.download(artefact, tmp_path / "back").read_bytes() == CONTENT
    assert api.ranges == []


def test_progress_is_told_up_to_the_end_and_counts_what_was_there(
    api: Breaking, client: Client, artefact: UUID, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    api.cuts = 1
    client.download(artefact, tmp_path / "back", on_progress=lambda there, total: told.append((there, total)))
    counts = [there for there, _ in told]
    assert {total for _, total in told} == {len(CONTENT)}
    assert (counts, counts[-1]) == (sorted(counts), len(CONTENT))
    assert CUT in counts


def test_progress_of_a_folder_is_that_of_its_files_together(client: Client, tmp_path: Path) -> None:
    for name, length in (("a", 10), ("b", 1000), ("c", 1)):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x" * length)
    tree = client.upload_tree(tmp_path / "set")
    counts: list[int] = []
    for _ in range(2):  # the second time all is there already
        counts.clear()
        client.download(tree.id, tmp_path / "back", on_progress=lambda there, _total: counts.append(there))
        assert (counts, counts[-1]) == (sorted(counts), 1011)


def test_progress_of_a_zip_ends_with_its_length(client: Client, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_bytes(b"x" * 1000)
    told: list[tuple[int, int]] = []
    packed = client.download(
        client.upload_tree(tmp_path / "set").id,
        tmp_path / "set.zip",
        as_zip=True,
        on_progress=lambda there, total: told.append((there, total)),
    )
    assert told[-1] == (packed.stat().st_size,) * 2


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks of this kind")
def test_two_processes_that_fetch_the_same_do_not_write_into_one_file(tmp_path: Path) -> None:
    target = tmp_path / "back"
    program = f"""
from pathlib import Path
from vlyard.client.partial import partial_of
with partial_of(Path({str(target)!r}), "ab" * 32) as partial:
    partial.write(b"mine")
    print(partial.bytes)
"""
    with partial_of(target, "ab" * 32) as partial:
        partial.write(b"theirs")
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (ran.stdout, ran.stderr) == ("4\n", "")
        assert partial.bytes == 6
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"theirs"]
