"""Sends a folder to ModelScope: run as a program of its own, so that it can be stopped; it imports nothing of VLyard.

It is asked and answers as `uploading.py` does. The surface is what ModelScope's own package speaks
(modelscope_hub/_legacy_api.py and _upload.py): large files first, each as a blob under its SHA-256, then one commit
that names these and holds the small ones. A blob that the hub has already is not sent again.
"""

import base64
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

_HOME = "https://modelscope.cn"
_BRANCH = "master"
_TIMEOUT = httpx.Timeout(300, connect=10)  # a commit is answered when the hub has all of it
_PRIVATE, _PUBLIC = 1, 5  # as the hub counts them
_INLINE_BYTES = 64 * 2**10  # what is larger goes as a blob
_WEIGHTS = {".safetensors", ".gguf", ".bin", ".model"}
_READ_BY_THE_HUB = {"README.md", "config.json", "configuration.json"}  # whatever their size: never as blobs

_CODE_OK = {None, 200, "200"}
_BAD_TOKEN, _BUSY = 10010103009, 10030000001  # of the hub, whatever the HTTP status says
_EXISTS = {10010101001, 10010202004}


@dataclass(frozen=True)
class _File:
    """A file that is to be sent."""

    path: str  # in the repository
    place: Path
    bytes: int
    sha256: str

    @property
    def is_blob(self) -> bool:
        name = Path(self.path).name
        return name not in _READ_BY_THE_HUB and (self.bytes > _INLINE_BYTES or Path(name).suffix in _WEIGHTS)

    def action(self) -> Mapping[str, Any]:
        """What the commit says of it."""
        known: dict[str, Any] = {"action": "create", "path": self.path, "size": self.bytes}
        if self.is_blob:
            return {**known, "type": "lfs", "sha256": self.sha256, "content": "", "encoding": ""}
        content = base64.b64encode(self.place.read_bytes()).decode()
        return {**known, "type": "normal", "sha256": "", "content": content, "encoding": "base64"}


class _RefusedError(Exception):
    """What the hub said instead of doing it."""

    def __init__(self, status: int, code: object, words: str) -> None:
        self.status, self.code, self.words = status, code, words
        super().__init__(f"{status}: {words}")

    @property
    def sort(self) -> str:
        if self.status in {401, 403} or self.code == _BAD_TOKEN:
            return "token"
        return "hub" if self.status >= 500 or self.status == 429 or self.code == _BUSY else "refused"


def main(note: Path) -> None:
    """Send, and write the commit, or which sort of thing went wrong, and in which words."""
    asked = json.loads(note.read_text(encoding="utf-8"))
    token = os.environ["MODELSCOPE_API_TOKEN"]
    came = {name: words.replace(token, "***") for name, words in _sent(asked, token).items()}  # a hub may quote it
    note.write_text(json.dumps(came), encoding="utf-8")


def _sent(asked: Mapping[str, Any], token: str) -> dict[str, str]:
    base = str(asked["endpoint"] or _HOME).rstrip("/")
    try:
        with httpx.Client(timeout=_TIMEOUT) as client:
            hub = _Hub(client, base, token, str(asked["repository"]))
            hub.make(private=bool(asked["private"]))
            files = list(_files(Path(asked["folder"])))
            hub.send_blobs([file for file in files if file.is_blob])
            return {"revision": hub.record(files)}
    except _RefusedError as error:
        return {"failed": error.sort, "words": str(error)}
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return {"failed": "hub", "words": str(error) or type(error).__name__}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return {"failed": "hub", "words": f"an answer that cannot be read ({type(error).__name__})"}


def _files(folder: Path) -> Iterator[_File]:
    for place in sorted(path for path in folder.rglob("*") if path.is_file()):
        with place.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        yield _File(place.relative_to(folder).as_posix(), place, place.stat().st_size, digest)


@dataclass(frozen=True)
class _Hub:
    """One repository of the hub."""

    client: httpx.Client
    base: str
    token: str
    repository: str

    def make(self, *, private: bool) -> None:
        """Make the repository where there is none."""
        try:
            self._ask("GET", f"models/{self.repository}")
        except _RefusedError as error:
            if error.sort != "refused":
                raise
        else:
            return
        owner, _, name = self.repository.partition("/")
        visibility = _PRIVATE if private else _PUBLIC
        # The hub wants a licence, and this is the one that its own package names. The model card says which holds.
        asked = {"Path": owner, "Name": name, "Visibility": visibility, "License": "Apache-2.0"}
        try:
            self._ask("POST", "models", asked)
        except _RefusedError as error:
            if error.status != 409 and error.code not in _EXISTS:
                raise

    def send_blobs(self, files: Sequence[_File]) -> None:
        """Send what the hub does not have yet."""
        by_digest = {file.sha256: file for file in files}
        objects = [{"oid": digest, "size": file.bytes} for digest, file in by_digest.items()]
        if not objects:
            return
        asked = {"operation": "upload", "objects": objects}
        found = self._ask("POST", f"repos/models/{self.repository}/info/lfs/objects/batch", asked)
        for each in found["objects"]:
            if upload := (each.get("actions") or {}).get("upload"):
                self._put(by_digest[each["oid"]], upload)

    def record(self, files: Sequence[_File]) -> str:
        """Have the files in the repository; returns the commit, or the branch where the hub does not tell."""
        asked = {"commit_message": "An export of VLyard", "actions": [file.action() for file in files]}
        self._ask("POST", f"repos/models/{self.repository}/commit/{_BRANCH}", asked)
        listed = self._ask("GET", f"models/{self.repository}/repo/files?Revision={_BRANCH}&Recursive=true")
        newest: Any = max(listed["Files"], key=lambda each: int(each.get("CommittedDate") or 0), default={})
        return str(newest.get("Revision") or _BRANCH)

    def _put(self, file: _File, upload: Mapping[str, Any]) -> None:
        headers = {**(upload.get("header") or {}), **(self._badge() if self._is_own(upload["href"]) else {})}
        with file.place.open("rb") as content:
            _read(self.client.put(upload["href"], content=content, headers=headers))

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        return _read(self.client.request(method, f"{self.base}/api/v1/{path}", json=body, headers=self._badge()))

    def _badge(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Cookie": f"m_session_id={self.token}"}

    def _is_own(self, url: str) -> bool:
        """Whether a blob goes to the hub itself: a signed address of another one's store must not see the token."""
        there, here = urlsplit(url), urlsplit(self.base)
        host, own = there.hostname or "", (here.hostname or "").removeprefix("www.")
        return there.scheme in {here.scheme, "https"} and (host == here.hostname or host.endswith(f".{own}"))


def _read(response: httpx.Response) -> Any:
    """What the hub answered; raises `_RefusedError` also where only the body says that it did not."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    told = body if isinstance(body, dict) else {}
    code = told.get("Code")
    if not response.is_success or told.get("Success") is False or code not in _CODE_OK:
        words = str(told.get("Message") or told.get("message") or response.reason_phrase or "no reason")
        raise _RefusedError(response.status_code, code, next(iter(words.splitlines()), ""))
    return told.get("Data") or told


if __name__ == "__main__":
    main(Path(sys.argv[1]))
