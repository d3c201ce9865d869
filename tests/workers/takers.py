"""Stand-ins for the surfaces of Hugging Face and ModelScope that take uploads, on loopback."""

import base64
import hashlib
import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import yaml

from tests.loopback import listening
from tests.workers.hubs import COMMIT

TOKEN = "hf_thisIsTheSecret0123456789"
REPOSITORY = "vision/street"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")  # a model that a card may stand on


@dataclass
class Taker(ABC):
    """What a hub was given, and how it misbehaves."""

    token: str = TOKEN
    status: int = 0  # of every answer to a commit, where it is not 0
    words: str = ""  # what it says then
    hangs: bool = False
    url: str = ""
    made: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0
    go_on: threading.Event = field(default_factory=threading.Event)

    @abstractmethod
    def answer(self, asked: str, content: bytes) -> tuple[int, object]:
        """The status and the body of an answer to `<method> <path>`."""

    @abstractmethod
    def refusal(self, words: str) -> object:
        """The body of an answer that is none."""

    def places(self, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Where blobs go; those that are here already go nowhere."""
        return [
            each
            if each["oid"] in self.blobs
            else {**each, "actions": {"upload": {"href": f"{self.url}/blobs/{each['oid']}", "header": {}}}}
            for each in objects
        ]


@dataclass
class HuggingFace(Taker):
    """https://huggingface.co/docs/hub/api, as its Python package speaks it."""

    def answer(self, asked: str, content: bytes) -> tuple[int, object]:
        if asked == "POST /api/repos/create":
            new = json.loads(content)
            self.made = {"name": f"{new['organization']}/{new['name']}", "private": _is_private(new)}
            return 200, {"url": f"{self.url}/{REPOSITORY}", "name": REPOSITORY}
        if asked == f"POST /api/models/{REPOSITORY}/preupload/main":
            return 200, {"files": [self._mode(each) for each in json.loads(content)["files"]]}
        if asked == f"POST /{REPOSITORY}.git/info/lfs/objects/batch":
            return 200, {"transfer": "basic", "objects": self.places(json.loads(content)["objects"])}
        if asked == f"POST /api/models/{REPOSITORY}/commit/main":
            return (self.status, self.refusal(self.words)) if self.status else (200, self._commit(content))
        if asked == "POST /api/validate-yaml":
            head = yaml.safe_load(json.loads(content)["content"].split("---\n")[1])
            base = head.get("base_model", "a/model")
            faults = [] if _HUB_ID.fullmatch(base) else [{"message": f'"base_model" with value "{base}" is not valid.'}]
            return 400 if faults else 200, {"errors": faults, "warnings": []}
        return 404, {"error": f"there is no {asked}"}

    def refusal(self, words: str) -> object:
        return {"error": words}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors")
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

    def _commit(self, content: bytes) -> object:
        self.commits += 1
        for row in map(json.loads, content.decode().splitlines()):
            value = row["value"]
            if row["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
        return {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/{REPOSITORY}/commit/{COMMIT}"}


def _is_private(asked: dict[str, Any]) -> bool:
    return bool(asked.get("private")) or asked.get("visibility") == "private"


@dataclass
class ModelScope(Taker):
    """What ModelScope's Python package speaks (modelscope_hub/_legacy_api.py)."""

    unseen: bool = False  # the repository is not shown to who asks for it, though it is there

    def answer(self, asked: str, content: bytes) -> tuple[int, object]:
        if asked == f"GET /api/v1/models/{REPOSITORY}" and self.made and not self.unseen:
            return 200, _told({"Name": "street"})
        if asked == "POST /api/v1/models":
            return self._make(json.loads(content))
        if asked == f"POST /api/v1/repos/models/{REPOSITORY}/info/lfs/objects/batch":
            return 200, _told({"objects": self.places(json.loads(content)["objects"])})
        if asked == f"POST /api/v1/repos/models/{REPOSITORY}/commit/master":
            return (self.status, self.refusal(self.words)) if self.status else (200, self._commit(content))
        if asked == f"GET /api/v1/models/{REPOSITORY}/repo/files":
            return 200, _told(
                {"Files": [{"Path": name, "Revision": COMMIT, "CommittedDate": 1} for name in self.files]}
            )
        return 404, self.refusal(f"there is no {asked}")

    def refusal(self, words: str) -> object:
        return {"Code": 10010205001, "Message": words, "Success": False}

    def _make(self, new: dict[str, Any]) -> tuple[int, object]:
        if self.made:
            return 400, {"Code": 10010101001, "Message": "the name is registered", "Success": False}
        self.made = {"name": f"{new['Path']}/{new['Name']}", "private": new["Visibility"] == 1}
        return 200, _told({"Path": new["Path"], "Name": new["Name"]})

    def _commit(self, content: bytes) -> object:
        self.commits += 1
        for each in json.loads(content)["actions"]:
            blob = each["type"] == "lfs"
            self.files[each["path"]] = self.blobs[each["sha256"]] if blob else base64.b64decode(each["content"])
            assert len(self.files[each["path"]]) == each["size"]
        return _told({})


def _told(data: object) -> object:
    return {"Code": 200, "Data": data, "Success": True}


TAKERS: Mapping[str, type[HuggingFace] | type[ModelScope]] = {"huggingface": HuggingFace, "modelscope": ModelScope}


class _Answers(BaseHTTPRequestHandler):
    taker: Taker

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._read())

    def do_PUT(self) -> None:
        content = self._read()
        self.taker.blobs[hashlib.sha256(content).hexdigest()] = content
        self._send(200, {})

    def _answer(self, content: bytes) -> None:
        if self.taker.hangs:
            self.taker.go_on.wait(60)
        if self.headers.get("Authorization") != f"Bearer {self.taker.token}":
            self._send(401, self.taker.refusal(f"Invalid credentials: {self.headers.get('Authorization')}"))
        else:
            self._send(*self.taker.answer(f"{self.command} {self.path.partition('?')[0]}", content))

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
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


@contextmanager
def serving(taker: Taker) -> Iterator[Taker]:
    """The stand-in, reachable at its `url` for as long as the block lasts."""
    with listening(_Answers, taker=taker) as taker.url:
        try:
            yield taker
        finally:
            taker.go_on.set()
