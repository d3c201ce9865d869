"""A stand-in for Hugging Face and ModelScope: the surfaces of both, on loopback, serving the files of a folder."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback import listening

COMMIT = "c0ffee00" * 5
REPOSITORY = "Acme/Tiny-VL"


@dataclass
class StandIn:
    """What the hub serves, how it misbehaves, and what it was asked."""

    folder: Path
    token: str = ""  # asked for, where it is not empty
    cut_at: int = 0  # the next large answer ends after so many bytes
    hang_at: int = 0  # the next large answer says no more after so many bytes, until `go_on`
    go_on: threading.Event = field(default_factory=threading.Event)
    altered: int = 0  # so many large answers have a wrong byte
    broken: bool = False  # every file is answered with 503
    whole: bool = False  # it does not know Range
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)  # file, and the range of it

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def listing(self, path: str) -> object | None:
        """The list of files, as the hub of that surface writes it."""
        if path in {f"/api/models/{REPOSITORY}/revision/{name}" for name in ("main", "v1", COMMIT)}:
            return {"id": REPOSITORY, "sha": COMMIT, "siblings": [self._sibling(each) for each in self.files()]}
        if path == f"/api/v1/models/{REPOSITORY}/repo/files":
            return {"Code": 200, "Data": {"Files": [{"Type": "tree", "Path": "folder"}, *map(self._row, self.files())]}}
        return None

    def content(self, path: str, query: dict[str, list[str]]) -> Path | None:
        for begin in (f"/{REPOSITORY}/resolve/{COMMIT}/", f"/cdn/{REPOSITORY}/"):
            if path.startswith(begin):
                return self.folder / path.removeprefix(begin)
        if path == f"/api/v1/models/{REPOSITORY}/repo" and query["Revision"] == [COMMIT]:
            return self.folder / query["FilePath"][0]
        return None

    def _sibling(self, path: Path) -> dict[str, object]:
        name, content = str(path.relative_to(self.folder)), path.read_bytes()
        if path.suffix in {".safetensors", ".bin"}:
            lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            return {"rfilename": name, "size": len(content), "blobId": "0" * 40, "lfs": lfs}
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"rfilename": name, "size": len(content), "blobId": blob}

    def _row(self, path: Path) -> dict[str, object]:
        content = path.read_bytes()
        return {
            "Type": "blob",
            "Path": str(path.relative_to(self.folder)),
            "Name": path.name,
            "Size": len(content),
            "Sha256": hashlib.sha256(content).hexdigest(),
            "Revision": COMMIT,
            "CommittedDate": 1_700_000_000,
        }


class _Answers(BaseHTTPRequestHandler):
    hub: StandIn

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        listing, file = self.hub.listing(path), self.hub.content(path, query)
        known = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if self.hub.token and not known and not path.startswith("/cdn/"):
            self.send_error(401)
        elif listing is not None:
            self._send(200, json.dumps(listing).encode())
        elif file is None or not file.is_file():
            self.send_error(404)
        elif file.suffix == ".safetensors" and "/resolve/" in path:  # large files are somewhere else
            self.send_response(302)
            self.send_header("Location", f"/cdn/{REPOSITORY}/{file.name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send_file(file)

    def _send_file(self, file: Path) -> None:
        wanted = self.headers.get("Range", "")
        self.hub.asked.append((file.name, wanted))
        if self.hub.broken:
            self.send_error(503)
            return
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        if large and self.hub.altered:
            self.hub.altered -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not self.hub.whole else 0
        extra = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        cut = (self.hub.cut_at or self.hub.hang_at) if large else 0
        hangs = bool(cut) and not self.hub.cut_at
        if cut:
            self.hub.cut_at = self.hub.hang_at = 0
        self._send(206 if begin else 200, content[begin:], cut, **extra)
        if hangs:
            self.wfile.flush()
            self.hub.go_on.wait(60)

    def _send(self, status: int, content: bytes, cut: int = 0, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:cut] if cut else content)
        self.close_connection = True


@contextmanager
def serving(stand_in: StandIn) -> Iterator[StandIn]:
    """The stand-in, reachable at its `url` for as long as the block lasts."""
    with listening(_Answers, hub=stand_in) as stand_in.url:
        yield stand_in
