"""The client and the command line against the real API and a real S3: what is cut short goes on where it stopped."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.settings import Settings
from tests.api.conftest import Join
from tests.api.serving import serving
from tests.api.visitor import Visitor
from tests.system import eventually
from vlyard import Client
from vlyard.errors import InvalidInput, Unavailable, UserError
from vlyard.jobs.view import Artefact

MIB = 2**20
FILES = {
    "a.txt": b"a",
    "deep/er/b.bin": b"b" * 100,
    "deep/same.bin": b"b" * 100,
    "empty": b"",
    "large": b"L" * (6 * MIB),
}


@pytest.fixture(scope="module")
def url(client: object, api_settings: Settings) -> Iterator[str]:
    """The API behind a real socket; `client` has made its bucket."""
    with serving(api_settings) as url:
        yield url


@pytest.fixture
def team(url: str, visitor: Visitor) -> Iterator[Client]:
    with Client(url, visitor.key) as client:
        yield client


def large(tmp_path: Path, parts: int = 4) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(b"".join(os.urandom(5 * MIB) for _ in range(parts - 1)) + b"the end")
    return path


def write(folder: Path) -> Path:
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Counting(httpx.HTTPTransport):
    """Counts the PUTs, and fails those after the first so many as a lost network does."""

    def __init__(self, allowed: int = 1000) -> None:
        super().__init__()
        self.allowed = allowed
        self.sent: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            if len(self.sent) >= self.allowed:
                raise httpx.ConnectError("the network is gone", request=request)
            self.sent.append(str(request.url))
        return super().handle_request(request)


# --- files in parts -------------------------------------------------------------------------------------------


def test_a_large_file_goes_up_in_parts_and_comes_down_whole(team: Client, tmp_path: Path) -> None:
    path, told = large(tmp_path), []
    artefact = team.upload(path, on_progress=lambda there, total: told.append((there, total)))
    assert (artefact.state, artefact.sha256) == ("ready", hashlib.sha256(path.read_bytes()).hexdigest())
    assert (told[0], told[-1]) == ((0, artefact.bytes), (artefact.bytes, artefact.bytes))
    assert told == sorted(told)
    assert team.download(artefact.id, tmp_path / "back").read_bytes() == path.read_bytes()


def test_an_upload_whose_network_went_away_sends_only_what_is_missing(
    url: str, visitor: Visitor, tmp_path: Path
) -> None:
    path, lost, back = large(tmp_path), Counting(allowed=2), Counting()
    with Client(url, visitor.key, transport=lost) as client, pytest.raises(Unavailable):
        client.upload(path)
    with Client(url, visitor.key, transport=back) as client:
        assert client.upload(path).state == "ready"
    assert (len(lost.sent), len(back.sent)) == (2, 2)


def test_an_upload_whose_links_have_expired_gets_fresh_ones(
    client: object, api_settings: Settings, visitor: Visitor, tmp_path: Path
) -> None:
    # given an API whose links work for two seconds, and a client that pauses for three
    short = api_settings.model_copy(update={"presign_seconds": 2})
    path, pauses = large(tmp_path), iter([3.0])

    class Pausing(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "PUT":
                time.sleep(next(pauses, 0))
            return super().handle_request(request)

    with serving(short) as url, Client(url, visitor.key, transport=Pausing()) as uploader:
        assert uploader.upload(path).state == "ready"


def test_a_file_that_changed_meanwhile_is_refused(url: str, visitor: Visitor, tmp_path: Path) -> None:
    path = large(tmp_path)

    class Changing(Counting):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "PUT" and not self.sent:
                with path.open("r+b") as file:
                    file.seek(-3, os.SEEK_END)
                    file.write(b"END")
            return super().handle_request(request)

    with (
        Client(url, visitor.key, transport=Changing()) as client,
        pytest.raises(InvalidInput, match="the upload differs"),
    ):
        client.upload(path)


# --- the command, killed --------------------------------------------------------------------------------------


def command(url: str, visitor: Visitor, *words: str) -> "subprocess.Popen[str]":
    program = str(Path(sys.executable).with_name("vlyard"))
    environment = {**os.environ, "VLYARD_URL": url, "VLYARD_API_KEY": visitor.key}
    return subprocess.Popen(
        (program, *words), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def done(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return dict(json.loads(out))


def test_an_upload_that_is_killed_goes_on_where_it_was_when_it_is_run_again(
    url: str, visitor: Visitor, tmp_path: Path
) -> None:
    # given an upload that is killed when some of its parts are there
    path = large(tmp_path, parts=24)
    first = command(url, visitor, "upload", str(path), "--json")
    key = pending(visitor, path)
    eventually(lambda: missing(visitor, key)["pieces"] < 24, 60, "the first part")
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = missing(visitor, key)["pieces"]
    assert 0 < left < 24
    # when it is run again, then it completes the same artefact
    artefact = done(command(url, visitor, "upload", str(path), "--json"))
    assert (artefact["id"], artefact["state"]) == (key, "ready")
    assert artefact["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def pending(visitor: Visitor, path: Path) -> str:
    """The id of the upload of a file, announced by whoever came first."""
    facts = {"name": path.name, "bytes": path.stat().st_size, "media_type": "application/octet-stream"}
    body = {**facts, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "resume": True}
    return str(visitor.post("/v1/artefacts", body).json()["id"])


def missing(visitor: Visitor, artefact: str) -> dict[str, Any]:
    return dict(visitor.get(f"/v1/artefacts/{artefact}/upload").json())


# --- trees ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(team: Client, tmp_path: Path) -> Artefact:
    return team.upload_tree(write(tmp_path / "street"))


def test_a_folder_goes_up_as_a_tree_and_comes_down_as_it_was(team: Client, tree: Artefact, tmp_path: Path) -> None:
    assert (tree.kind, tree.name, tree.state) == ("tree", "street", "ready")
    assert [file.path for file in team.files(tree.id)] == sorted(FILES)
    assert content(team.download(tree.id, tmp_path / "back")) == FILES


def test_a_tree_that_is_downloaded_again_fetches_only_what_is_missing_or_wrong(
    url: str, visitor: Visitor, tree: Artefact, tmp_path: Path
) -> None:
    fetched: list[str] = []

    class Watching(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if "/files/" in request.url.path:
                fetched.append(request.url.path)
            return super().handle_request(request)

    with Client(url, visitor.key, transport=Watching()) as client:
        folder = client.download(tree.id, tmp_path / "back")
        assert len(fetched) == len(FILES)
        (folder / "a.txt").unlink()
        (folder / "large").write_bytes(b"X" * (6 * MIB))
        (folder / "mine.txt").write_text("not the tree's")
        client.download(tree.id, folder)
    assert len(fetched) == len(FILES) + 2
    assert content(folder) == {**FILES, "mine.txt": b"not the tree's"}


def test_a_tree_comes_as_a_zip_where_that_is_asked_for(team: Client, tree: Artefact, tmp_path: Path) -> None:
    written = team.download(tree.id, tmp_path, as_zip=True)
    assert written == tmp_path / "street.zip"
    with zipfile.ZipFile(written) as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == FILES


def test_zips_that_nobody_reads_keep_nobody_waiting(
    url: str, visitor: Visitor, team: Client, tree: Artefact, api_settings: Settings
) -> None:
    # given more readers of zips than the API has connections to the database, who take the first bytes and pause
    path, headers = f"{url}/v1/artefacts/{tree.id}/zip", {"Authorization": f"Bearer {visitor.key}"}
    with ExitStack() as stack:
        paused = []
        for _ in range(api_settings.api_connections + 2):
            reply = stack.enter_context(httpx.stream("GET", path, headers=headers, trust_env=False))
            paused.append((reply.iter_raw(1000), int(reply.headers["Content-Length"])))
            assert next(paused[-1][0]).startswith(b"PK")
        # when others ask, then they are answered, and the paused ones get the rest
        assert team.artefact(tree.id).state == "ready"
        for rest, length in paused:
            assert sum(len(piece) for piece in rest) == length - 1000


def test_a_file_is_no_zip(team: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    artefact = team.upload(tmp_path / "a.txt")
    with pytest.raises(UserError, match="file and not a directory"):
        team.download(artefact.id, tmp_path, as_zip=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_tree_whose_upload_was_cut_short_sends_only_what_is_missing(
    url: str, visitor: Visitor, tmp_path: Path
) -> None:
    folder, lost, back = write(tmp_path / "street"), Counting(allowed=3), Counting()
    with Client(url, visitor.key, transport=lost) as client, pytest.raises(Unavailable):
        client.upload_tree(folder)
    with Client(url, visitor.key, transport=back) as client:
        tree = client.upload_tree(folder)
    assert len(lost.sent) + len(back.sent) == 5  # two parts of the large file, and each other content once
    assert len(lost.sent) == 3
    assert tree.state == "ready"


def test_a_folder_is_uploaded_and_downloaded_by_commands(url: str, visitor: Visitor, tmp_path: Path) -> None:
    folder = write(tmp_path / "street")
    stored = done(command(url, visitor, "upload", str(folder), "--tree", "--json"))
    written = done(command(url, visitor, "download", stored["id"], str(tmp_path / "back"), "--json"))
    assert content(Path(written["path"])) == FILES


def test_a_folder_that_is_uploaded_as_a_file_is_told_how(team: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="upload a folder as a tree"):
        team.upload(tmp_path)


# --- as inputs of jobs ----------------------------------------------------------------------------------------


def test_a_job_that_reads_a_file_refuses_a_tree_and_names_the_field(visitor: Visitor, tree: Artefact) -> None:
    refused = visitor.post("/v1/jobs", {"spec": {"kind": "inference", "image": str(tree.id), "prompt": "What?"}})
    assert (refused.status_code, [each["pointer"] for each in refused.json()["errors"]]) == (422, ["/spec/image"])
    assert "is a directory" in refused.json()["errors"][0]["detail"]
    accepted = visitor.post("/v1/jobs", {"spec": {"kind": "conversion", "source": str(tree.id)}})
    assert accepted.status_code == 202


def test_another_teams_tree_cannot_be_downloaded(join: Join, url: str, tree: Artefact, tmp_path: Path) -> None:
    with Client(url, join().key) as stranger, pytest.raises(UserError, match="there is no artefact"):
        stranger.download(tree.id, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()
