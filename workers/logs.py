"""The log of one attempt: what its handler says, line by line, on the way to the database and the artefact store.

Knows lines and bytes; how pieces get into the database is its caller's business. Threads may share a log.
"""

import codecs
import shutil
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from uuid_utils.compat import uuid7

from control.settings import Settings
from db.logs import Piece
from db.queue import Pair
from vlyard.files import Stored
from workers.trees import Store

LONGEST_LINE = 8 * 2**10  # bytes, of a line as it is kept
LONGEST_LOG = 10 * 2**20  # bytes, of all lines of an attempt
NAME, MEDIA_TYPE = "log.txt", "text/plain; charset=utf-8"
_CUT = " … (cut)"
_FULL = f"(the log ends here: an attempt may say {LONGEST_LOG // 2**20} MiB)\n"
_MASK = "***"
_SHORTEST_SECRET = 6  # characters; what is shorter stands in innocent words
_IN_MEMORY = 64 * 2**10  # bytes of a whole log, before it goes to a temporary file


def secrets_of(settings: Settings) -> frozenset[str]:
    """Everything among the settings that no log may show, also as it stands in URLs."""
    urls = {settings.database_url.get_secret_value(), settings.redis_url.get_secret_value()}
    hidden = (
        settings.s3_secret_key,
        settings.flower_password,
        settings.hub_token,
        settings.other_hub_token,
        settings.push_token,
        settings.modelscope_push_token,
    )
    keys = {each.get_secret_value() for each in hidden}
    plain = {*urls, *keys, *(unquote(urlsplit(url).password or "") for url in urls)}
    forms = {form for secret in plain for form in (secret, quote(secret, safe=""))}
    return frozenset(form for form in forms if len(form) >= _SHORTEST_SECRET)


class AttemptLog:
    """What one attempt says. `secrets` are masked wherever they stand in a line."""

    def __init__(self, pair: Pair, secrets: Iterable[str] = ()) -> None:
        self._pair = pair
        self._secrets = sorted(secrets, key=len, reverse=True)  # one may hold another
        self._room = LONGEST_LINE + max(map(len, self._secrets), default=0)
        self._lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = ""
        self._fresh: list[str] = []  # whole lines that are in no piece yet
        self._pending: list[Piece] = []  # pieces that are not known to be stored
        self._pieces = 0
        self._size = 0
        self._whole = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # until `close`

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said so far."""
        return not self._size

    def write(self, text: str) -> None:
        """Add one or more lines."""
        with self._lock:
            self._add(text if text.endswith("\n") else f"{text}\n")

    def feed(self, data: bytes) -> None:
        """Add what came through a pipe: UTF-8, cut anywhere. A line counts once it has ended."""
        with self._lock:
            self._add(self._decoder.decode(data))

    def end(self) -> None:
        """The pipe has ended, and with it the last line."""
        with self._lock:
            self._add(self._decoder.decode(b"", final=True))
            if self._partial:
                self._add("\n")

    def pending(self) -> Sequence[Piece]:
        """What is to be stored: all whole lines that are not known to be. What was asked for once comes again alike."""
        with self._lock:
            if self._fresh:
                self._pieces += 1
                self._pending.append(Piece(*self._pair, self._pieces, "".join(self._fresh)))
                self._fresh = []
            return tuple(self._pending)

    def stored(self, pieces: Sequence[Piece]) -> None:
        """These pieces are in the database; there may be other attempts' among them."""
        known = {piece.seq for piece in pieces if (piece.job, piece.attempt) == self._pair}
        with self._lock:
            self._pending = [piece for piece in self._pending if piece.seq not in known]

    def publish(self, store: Store, folder: Path, prefix: str) -> Stored | None:
        """Store the whole log as a file of the attempt; returns None where nothing was said."""
        with self._lock:
            if not self._size:
                return None
            path = folder / NAME
            self._whole.seek(0)
            with path.open("wb") as file:
                shutil.copyfileobj(self._whole, file)
        key = f"{prefix}/log/{NAME}"  # where no handler's own file of that name is
        size, sha256 = store.put(key, path, MEDIA_TYPE)
        return Stored(uuid7(), NAME, MEDIA_TYPE, key, size, sha256)

    def close(self) -> None:
        """Let go of the whole log; what is pending stays, and what is said from now on is not kept."""
        with self._lock:
            self._size = LONGEST_LOG
            self._whole.close()

    def _add(self, text: str) -> None:
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._keep(line.rstrip("\r").rpartition("\r")[2])  # a terminal shows what was written last
        self._partial = self._partial[self._partial.rfind("\r", 0, -1) + 1 :]
        if len(self._partial) > self._room:
            self._partial = self._masked(self._partial)[: self._room]

    def _keep(self, line: str) -> None:
        data = self._masked(line).replace("\0", "\ufffd").encode("utf-8", "replace")
        if len(data) > LONGEST_LINE:
            data = data[: LONGEST_LINE - len(_CUT.encode())].decode("utf-8", "ignore").encode() + _CUT.encode()
        if self._size >= LONGEST_LOG:
            return
        data += b"\n"
        if self._size + len(data) > LONGEST_LOG - len(_FULL):
            data, self._size = _FULL.encode(), LONGEST_LOG
        self._size += len(data)
        self._whole.write(data)
        self._fresh.append(data.decode())

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text
