"""An export goes to Hugging Face whole, as one commit, and nobody but the hub ever sees the token."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from control.settings import Settings
from vlyard.errors import Cancelled, InvalidInput, Unavailable, VLyardError
from workers.hub_pushing import push, require_hub

TOKEN = "hf_thisIsTheSecret0123456789"
REPOSITORY = "vision/street"
COMMIT = "c0ffee00" * 5


@dataclass
class Taker:
    """The surface of Hugging Face that takes uploads, what it was given, and how it misbehaves."""

    token: str = TOKEN
    status: int = 0  # of every answer to a commit, where it is not 0
    words: str = ""  # what it says then
    hangs: bool = False
    url: str = ""
    made: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    go_on: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str, content: bytes) -> tuple[int, object]:
        if path == "/api/repos/create":
            self.made = json.loads(content)
            return 200, {"url": f"{self.url}/{REPOSITORY}", "name": REPOSITORY}
        if path == f"/api/models/{REPOSITORY}/preupload/main":
            return 200, {"files": [self._mode(each) for each in json.loads(content)["files"]]}
        if path == f"/{REPOSITORY}.git/info/lfs/objects/batch":
            return 200, {"transfer": "basic", "objects": [self._place(each) for each in json.loads(content)["objects"]]}
        if path == f"/api/models/{REPOSITORY}/commit/main":
            return (self.status, {"error": self.words}) if self.status else (200, self._commit(content))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        return 404, {"error": f"there is no {path}"}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors")
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

    def _place(self, each: dict[str, Any]) -> dict[str, Any]:
        return {**each, "actions": {"upload": {"href": f"{self.url}/blobs/{each['oid']}", "header": {}}}}

    def _commit(self, content: bytes) -> object:
        for row in map(json.loads, content.decode().splitlines()):
            value = row["value"]
            if row["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
        return {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/{REPOSITORY}/commit/{COMMIT}"}


class _Answers(BaseHTTPRequestHandler):
    taker: Taker

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0))) if not self._chunked() else self._read()
        if self.taker.hangs:
            self.taker.go_on.wait(60)
        if self.headers.get("Authorization") != f"Bearer {self.taker.token}":
            self._send(401, {"error": f"Invalid credentials: {self.headers.get('Authorization')}"})
        else:
            self._send(*self.taker.answer(self.path.partition("?")[0], content))

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0))) if not self._chunked() else self._read()
        self.taker.blobs[hashlib.sha256(content).hexdigest()] = content
        self._send(200, {})

    def _chunked(self) -> bool:
        return self.headers.get("Transfer-Encoding") == "chunked"

    def _read(self) -> bytes:
        content = b""
        while length := int(self.rfile.readline(), 16):
            content += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serving(taker: Taker) -> Iterator[Taker]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"taker": taker}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    taker.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield taker
    finally:
        taker.go_on.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# street\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


def settings_for(taker: Taker, token: str = TOKEN) -> Settings:
    return Settings(hub_endpoint=taker.url, push_token=SecretStr(token))


def sent(export: Path, settings: Settings, **options: Any) -> str:
    wanted = {"private": True, "check": lambda: None, **options}
    return push(export, "huggingface", REPOSITORY, settings, **wanted)


def test_every_file_arrives_in_one_commit_whose_name_is_told(export: Path) -> None:
    with serving(Taker()) as taker:
        told = sent(export, settings_for(taker))

    assert told == f"hub:{REPOSITORY}@{COMMIT}"
    assert taker.files == {path.name: path.read_bytes() for path in export.iterdir()}
    assert (taker.made["name"], taker.made["organization"]) == ("street", "vision")
    assert taker.made.get("private") or taker.made.get("visibility") == "private"


@pytest.mark.parametrize(
    ("misfortune", "kind", "words"),
    [
        ({"token": "another"}, InvalidInput, "/spec/repository: huggingface refuses the workers' token"),
        ({"status": 403, "words": f"{TOKEN} may not write"}, InvalidInput, "VLYARD_PUSH_TOKEN"),
        ({"status": 400, "words": "the name is taken"}, InvalidInput, "/spec/repository: huggingface refuses it"),
        ({"status": 500, "words": "out of order"}, Unavailable, "huggingface does not take the export"),
    ],
)
def test_what_the_hub_refuses_is_told_without_the_token(
    export: Path, misfortune: dict[str, Any], kind: type[VLyardError], words: str
) -> None:
    with serving(Taker(**misfortune)) as taker, pytest.raises(kind, match=words) as refused:
        sent(export, settings_for(taker))

    assert TOKEN not in str(refused.value)
    for path in export.parent.rglob("*"):  # whatever was written on the way
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path


def test_a_hub_that_is_away_is_an_outage(export: Path) -> None:
    with serving(Taker()) as taker:
        settings = settings_for(taker)

    with pytest.raises(Unavailable, match="huggingface does not take the export"):
        sent(export, settings)


def test_sending_stops_when_it_is_time_to(export: Path) -> None:
    def stop() -> None:
        raise Cancelled

    with serving(Taker(hangs=True)) as taker, pytest.raises(Cancelled):
        sent(export, settings_for(taker), check=stop)


def test_without_a_token_and_for_a_hub_that_takes_nothing_from_here_it_is_refused_before_any_work() -> None:
    with pytest.raises(InvalidInput, match=r"/spec/push_to: .*VLYARD_PUSH_TOKEN"):
        require_hub("huggingface", Settings())
    with pytest.raises(InvalidInput, match="/spec/push_to: ModelScope takes files only from its own package"):
        require_hub("modelscope", Settings(push_token=SecretStr(TOKEN)))
