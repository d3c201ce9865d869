"""The data folder of a stack: who has it now, and the ports and secrets that it had before."""

import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from control.stack.guard import start_mark
from control.stack.ports import free_port, is_free
from vlyard.errors import Conflict

_LOG = logging.getLogger(__name__)
_CLEARING_SECONDS = 20  # longer than a guard needs


@dataclass(frozen=True)
class DataFolder:
    """A folder that one stack at a time uses, as `taken` hands it out."""

    path: Path
    lock: IO[str]
    say: Callable[[str], None]

    def secret(self, name: str) -> str:
        """The secret of that name, 48 hexadecimal digits, made when it is first asked for."""
        return self.kept_secret(name) or self.keep_secret(name, secrets.token_hex(24))

    def kept_secret(self, name: str) -> str:
        """The secret of that name; empty where none is kept."""
        return str(_read(self.path / "secrets.json").get(name, ""))

    def keep_secret(self, name: str, secret: str) -> str:
        """Keep a secret that was made elsewhere; returns it."""
        path = self.path / "secrets.json"
        write_private(path, json.dumps(_read(path) | {name: secret}, indent=1))
        return secret

    def insist(self, name: str, port: int) -> None:
        """Let `name` have this port from now on; raises `Conflict` where somebody else uses it."""
        if not is_free(port):
            raise Conflict(f"port {port} is taken: end what uses it, or choose another one")
        self._keep_port(name, port)

    def port(self, name: str, wanted: int = 0, also_free: int = 0) -> int:
        """The port that `name` had before, else the wanted one, else a free one; where it is taken, another.

        With `also_free`, the port that much higher is free too.
        """
        kept = _read(self.path / "ports.json")
        first = kept.get(name) or wanted
        port = first
        if not (first and is_free(first) and (not also_free or is_free(first + also_free))):
            port = free_port(set(kept.values()), also_free)
            if first:
                self.say(f"port {first} of {name} is taken: {name} uses {port} from now on")
        self._keep_port(name, port)
        return port

    def _keep_port(self, name: str, port: int) -> None:
        path = self.path / "ports.json"
        write_private(path, json.dumps(_read(path) | {name: port}, indent=1))

    def announce(self, url: str) -> None:
        """Write into the lock who has the folder, for whoever finds it taken."""
        self.lock.seek(0)
        self.lock.truncate()
        json.dump({"pid": os.getpid(), "mark": start_mark(os.getpid()), "url": url}, self.lock)
        self.lock.flush()


@contextmanager
def taken(path: Path, say: Callable[[str], None] = _LOG.info) -> Iterator[DataFolder]:
    """Take a data folder for oneself, making it where there is none; raises `Conflict` where it is in use."""
    path = path.absolute()
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    with (path / "lock").open("a+") as lock:
        _take(lock, path, say)
        folder = DataFolder(path, lock, say)
        folder.announce("")
        yield folder


def _take(lock: IO[str], path: Path, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + _CLEARING_SECONDS
    said = False
    while not _locked(lock):
        lock.seek(0)
        holder = json.loads(lock.read() or "{}")
        pid, url = holder.get("pid", 0), holder.get("url", "")
        is_alive = pid and start_mark(pid) == holder["mark"]
        if is_alive or time.monotonic() > deadline:
            at = f" at {url}" if url else ""
            raise Conflict(
                f"{path} is in use by the stack of process {pid}{at}: end that one with Ctrl-C, or name another folder "
                "with --data"
            )
        if not said:
            say(f"the stack that had {path} was killed; waiting until its last processes have ended")
            said = True
        time.sleep(0.1)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
