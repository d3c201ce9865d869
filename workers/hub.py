"""Fetching a model from Hugging Face or ModelScope. It knows no job, no cache and no weights' inside.

1. ask the hub which files the repository has   2. fetch config.json and look at it   3. fetch the rest, each file going
on where an earlier try stopped, and each compared with the checksum that the hub states

Hugging Face's surface is that of https://huggingface.co/docs/hub/api, which its mirrors speak too; ModelScope's is
what its own Python package speaks (modelscope/hub/api.py and file_download.py).
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from vlyard.errors import Complaint, InvalidInput, Unavailable, VLyardError
from workers.qwen.checkpoint import CONFIG, INDEX, WEIGHTS, check_architecture, named_weights

_TIMEOUT = httpx.Timeout(30, connect=10)
_TRIES = 3  # in a row that bring nothing: the job itself is tried again, too
_FIRST_PAUSE = 0.5  # seconds; each later one is twice as long
_TELL_EVERY = 0.5  # seconds
_CHUNK = 2**20
_LARGEST_LISTING = 32 * 2**20
_LARGEST_TEXT = 256 * 2**20  # of one file besides the weights, each of which is read into memory whole
_CODE_OK = 200

# What a checkpoint consists of besides its weights. Nothing else is fetched: no pickle, no code, no pictures.
_WANTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(json|jinja)|merges\.txt")


class Progress(NamedTuple):
    """How much of a model has arrived."""

    bytes: int
    of: int
    rate: float  # bytes a second, of what had to be fetched now


Told: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, and what its bytes must be."""

    path: str
    bytes: int
    revision: str
    sha256: str = ""
    git_sha1: str = ""  # of git's blob, for files that are small enough to lie in git


@dataclass(frozen=True)
class Snapshot:
    """A repository at one moment."""

    repository: str
    revision: str
    files: Mapping[str, HubFile]

    @property
    def digest(self) -> str:
        """The same for the same content, wherever it comes from; of a file without a checksum, for the same commit."""
        rows = sorted(
            f"{file.path} {file.bytes} {file.sha256 or file.git_sha1 or file.revision}" for file in self.files.values()
        )
        return hashlib.sha256("\n".join([self.repository, *rows]).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True)
class Hub:
    """A model hub or its mirror."""

    kind: str  # huggingface or modelscope
    endpoint: str = ""
    token: SecretStr = field(default_factory=lambda: SecretStr(""))
    variable: str = "VLYARD_HUB_TOKEN"  # that holds the token, for the words of errors

    @property
    def url(self) -> str:
        return (self.endpoint or _SURFACES[self.kind].home).rstrip("/")


def look_up(hub: Hub, repository: str, revision: str = "") -> Snapshot:
    """What the repository `owner/name` holds at a branch, tag or commit; empty: its main branch.

    Raises `InvalidInput` where there is no such repository or it is not shown to us, and `Unavailable`.
    """
    surface = _SURFACES[hub.kind]
    revision = revision or surface.branch
    with _client(hub) as client:
        asked = _Asked(hub, repository, revision)
        content = _json(client, f"{hub.url}{surface.listing(repository, revision)}", asked)
        try:
            found = surface.read(content, revision)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unavailable(f"{hub.url} sent a listing that cannot be read: {error!r}") from error
    return Snapshot(repository, found.revision, {file.path: file for file in _needed(found.files)})


def download(hub: Hub, snapshot: Snapshot, folder: Path, told: Told, check: Callable[[], None]) -> None:
    """Bring the files of a snapshot into a folder; what is there already is not fetched again.

    `told` hears now and then how far it is, and `check` ends the work by raising; what was fetched stays for the next
    try. Raises `InvalidInput` where it is no Qwen3-VL model in safetensors, and `Unavailable`.
    """
    asked = _Asked(hub, snapshot.repository, snapshot.revision)
    folder.mkdir(parents=True, exist_ok=True)
    with _client(hub) as client:
        fetch = _Fetch(client, asked, folder, told, check, snapshot.bytes)
        for file in snapshot.files.values():
            if file.bytes > _LARGEST_TEXT and not file.path.endswith(".safetensors"):
                raise asked.refused(
                    f"its {file.path} has {file.bytes} bytes, which is no model's", "name another model"
                )
        if CONFIG not in snapshot.files:
            raise asked.refused(f"it has no {CONFIG}", "name a Qwen3-VL model")
        fetch.file(snapshot.files[CONFIG])
        check_architecture(folder)
        for file in snapshot.files.values():
            if file.path != CONFIG and not file.path.endswith(".safetensors"):
                fetch.file(file)
        for shard in _shards(snapshot, folder, asked):
            fetch.file(shard)
        fetch.tell()


def _needed(files: Iterable[HubFile]) -> Iterator[HubFile]:
    for file in files:
        if _WANTED.fullmatch(file.path) or re.fullmatch(r"model[A-Za-z0-9._-]*\.safetensors", file.path):
            yield file


def _shards(snapshot: Snapshot, folder: Path, asked: "_Asked") -> list[HubFile]:
    if WEIGHTS in snapshot.files:
        return [snapshot.files[WEIGHTS]]
    if INDEX not in snapshot.files:
        raise asked.refused("it has no weights in safetensors", "name a model that has them")
    names = named_weights(folder)
    if lacking := [name for name in names if name not in snapshot.files]:
        raise asked.refused(f"it has no file {lacking[0]!r}, which its {INDEX} names", "name another revision")
    return [snapshot.files[name] for name in names]


# --- what the two hubs say ------------------------------------------------------------------------------------


class _Found(NamedTuple):
    revision: str
    files: list[HubFile]


def _huggingface(content: Any, revision: str) -> _Found:
    commit = str(content.get("sha") or revision)
    files = [
        HubFile(
            path=str(each["rfilename"]),
            bytes=int((each.get("lfs") or each)["size"]),
            revision=commit,
            sha256=str((each.get("lfs") or {}).get("sha256", "")),
            git_sha1="" if each.get("lfs") else str(each.get("blobId", "")),
        )
        for each in content["siblings"]
        if each.get("size") is not None or each.get("lfs")
    ]
    return _Found(commit, files)


def _modelscope(content: Any, revision: str) -> _Found:
    if content["Code"] != _CODE_OK:
        raise ValueError(str(content.get("Message", "no message")))
    rows = [each for each in content["Data"]["Files"] if each.get("Type") != "tree"]
    files = [
        HubFile(
            path=str(each["Path"]),
            bytes=int(each["Size"]),
            revision=str(each.get("Revision") or revision),
            sha256=str(each.get("Sha256") or ""),
        )
        for each in rows
    ]
    latest: Any = max(rows, key=lambda each: int(each.get("CommittedDate") or 0), default={})
    return _Found(str(latest.get("Revision") or revision), files)


@dataclass(frozen=True)
class _Surface:
    home: str
    branch: str
    listing: Callable[[str, str], str]
    content: Callable[[str, HubFile], str]
    read: Callable[[Any, str], _Found]
    headers: Callable[[str], Mapping[str, str]]


_SURFACES = {
    "huggingface": _Surface(
        home="https://huggingface.co",
        branch="main",
        listing=lambda name, revision: f"/api/models/{name}/revision/{quote(revision, safe='')}?blobs=true",
        content=lambda name, file: f"/{name}/resolve/{quote(file.revision, safe='')}/{quote(file.path)}",
        read=_huggingface,
        headers=lambda token: {"Authorization": f"Bearer {token}"},
    ),
    "modelscope": _Surface(
        home="https://modelscope.cn",
        branch="master",
        listing=lambda name, revision: f"/api/v1/models/{name}/repo/files?Revision={quote(revision)}&Recursive=true",
        content=lambda name, file: (
            f"/api/v1/models/{name}/repo?Revision={quote(file.revision)}&FilePath={quote(file.path)}"
        ),
        read=_modelscope,
        headers=lambda token: {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"},
    ),
}


# --- asking ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What was asked for, for the words of errors."""

    hub: Hub
    repository: str
    revision: str

    def refused(self, what: str, fix: str) -> InvalidInput:
        where = f"hub:{self.repository}@{self.revision}"
        return InvalidInput("The model cannot be fetched", [Complaint(where, what, fix)])

    def expect_welcome(self, response: httpx.Response) -> None:
        """Raises `InvalidInput` where the hub says that it is not there or not for us, and `Unavailable`."""
        if response.status_code in {401, 403}:
            setting = self.hub.variable
            has = f"that {setting} holds" if self.hub.token.get_secret_value() else f"in {setting}"
            raise self.refused(
                f"{self.hub.url} does not show it to us ({response.status_code})",
                f"look at the name; a private or gated model needs a token {has} with access to it",
            )
        if response.status_code == 404:
            raise self.refused(f"{self.hub.url} has no such repository or revision", "look at the name")
        if not response.is_success:
            raise Unavailable(f"{self.hub.url} answers {response.status_code} for {self.repository}")


@contextmanager
def _client(hub: Hub) -> Iterator[httpx.Client]:
    token = hub.token.get_secret_value()
    # Files are compared with their lengths, so they must come as they are.
    headers = {"Accept-Encoding": "identity", **(_SURFACES[hub.kind].headers(token) if token else {})}
    with httpx.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=True) as client:
        try:
            yield client
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = str(error) or type(error).__name__
            raise Unavailable(f"the model hub {hub.url} cannot be reached: {said}") from error


def _json(client: httpx.Client, url: str, asked: _Asked) -> Any:
    with client.stream("GET", url) as response:
        asked.expect_welcome(response)
        content = b""
        for chunk in response.iter_raw(_CHUNK):
            content += chunk
            if len(content) > _LARGEST_LISTING:
                raise Unavailable(f"{asked.hub.url} sent a listing of more than {_LARGEST_LISTING} bytes")
    try:
        return httpx.Response(200, content=content).json()
    except ValueError as error:
        raise Unavailable(f"{asked.hub.url} sent a listing that is not JSON") from error


# --- fetching -------------------------------------------------------------------------------------------------


@dataclass
class _Fetch:
    """One download: where its files go, and how far it is."""

    client: httpx.Client
    asked: _Asked
    folder: Path
    told: Told
    check: Callable[[], None]
    total: int
    began: float = field(default_factory=time.monotonic)
    complete: int = 0  # bytes of whole files
    fetched: int = 0  # bytes that were fetched now
    told_at: float = 0.0

    def file(self, file: HubFile) -> None:
        """Bring one file, whole and compared with its checksum."""
        target, partial = self.folder / file.path, self.folder / f"{file.path}.part"
        if not target.exists():  # it was compared before it got this name
            self._bring(file, partial)
            if not self._is_right(file, partial):
                partial.unlink()
                self._bring(file, partial)  # what an earlier try left may be what is wrong
                if not self._is_right(file, partial):
                    partial.unlink()
                    raise Unavailable(f"{self.asked.hub.url} sends other bytes of {file.path} than it states")
            partial.rename(target)
        self.complete += file.bytes

    def tell(self, partly: int = 0) -> None:
        """Say how far it is, with so many bytes of the present file."""
        self.told_at = time.monotonic()
        rate = self.fetched / max(self.told_at - self.began, 1e-3)
        self.told(Progress(self.complete + partly, self.total, rate))

    def _bring(self, file: HubFile, partial: Path) -> None:
        partial.touch()
        failures = 0
        while (before := partial.stat().st_size) < file.bytes:
            self.check()
            try:
                self._append(file, partial, before)
                said: VLyardError | httpx.HTTPError = Unavailable(f"{self.asked.hub.url} ends {file.path} too early")
            except (httpx.TransportError, Unavailable) as error:
                said = error
            failures = 1 if partial.stat().st_size > before else failures + 1
            if failures == _TRIES:
                raise said
            if partial.stat().st_size < file.bytes:
                self._pause(_FIRST_PAUSE * 2 ** (failures - 1))

    def _append(self, file: HubFile, partial: Path, have: int) -> None:
        """What the hub sends of a file from there on; the hub may as well begin anew."""
        url = f"{self.asked.hub.url}{_SURFACES[self.asked.hub.kind].content(self.asked.repository, file)}"
        wanted = {"Range": f"bytes={have}-"} if have else {}
        with self.client.stream("GET", url, headers=wanted) as response:
            self.asked.expect_welcome(response)
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            with partial.open("ab" if have and goes_on else "wb") as out:
                for chunk in response.iter_raw():  # as it comes: what waits in a buffer is lost when the line is cut
                    self.check()
                    out.write(chunk)
                    self.fetched += len(chunk)
                    if out.tell() > file.bytes:
                        return  # the comparison says what is wrong
                    if time.monotonic() - self.told_at > _TELL_EVERY:
                        self.tell(out.tell())

    def _is_right(self, file: HubFile, partial: Path) -> bool:
        if partial.stat().st_size != file.bytes:
            return False
        if not (file.sha256 or file.git_sha1):
            return True
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)
        with partial.open("rb") as content:
            while chunk := content.read(_CHUNK):
                self.check()
                digest.update(chunk)
        return digest.hexdigest() == (file.sha256 or file.git_sha1)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.check()
            time.sleep(0.1)
