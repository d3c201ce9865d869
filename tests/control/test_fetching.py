"""Files that arrive in ranges, in any order, over connections that break: whole and right, or not there."""

import hashlib
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import pytest

from control.fetching import PIECE_BYTES, gone
from control.fetching import fetch_each as fetch_from
from vlyard.errors import Cancelled, InvalidInput, Unavailable
from vlyard.files import ArtefactKind, Stored

SMALL, LARGE = os.urandom(1000), os.urandom(2 * PIECE_BYTES + 5)
PATIENCE = 20  # seconds
STARTS = (0, PIECE_BYTES, 2 * PIECE_BYTES)


@dataclass
class Source:
    """Contents by their keys, and what was asked of them by whom."""

    contents: dict[str, bytes]
    before: Callable[[str, int], None] = lambda *_: None  # called when a range is asked for
    breaks: int = 0  # so many answers of the large file break off after a mebibyte
    asked: list[tuple[str, int, int | None]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, file: Stored, begin: int, end: int | None) -> Iterator[bytes]:
        self.asked.append((file.key, begin, end))
        self.threads.add(threading.get_ident())
        self.before(file.key, begin)
        if file.key not in self.contents:
            raise gone(file)
        content = self.contents[file.key][begin:end]
        for at in range(0, len(content), 2**20):
            if at and file.key == "large" and self._breaks():
                raise Unavailable("the connection broke")
            yield content[at : at + 2**20]

    def _breaks(self) -> bool:
        with self.lock:
            self.breaks -= 1
            return self.breaks >= 0


def file_of(content: bytes, key: str) -> Stored:
    return Stored(uuid4(), key, "a/b", key, len(content), hashlib.sha256(content).hexdigest())


def fetch(
    source: Source,
    folder: Path,
    told: Callable[[int], None] = lambda _: None,
    stored: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Fetch all that the source has; `stored` is what was another content, or was there, when it was stored."""
    folder.mkdir(parents=True, exist_ok=True)
    meant = {**source.contents, **stored}
    fetch_from(source.read, {folder / key: file_of(content, key) for key, content in meant.items()}, told)


def found(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def source() -> Source:
    return Source({"small": SMALL, "large": LARGE, "empty": b""})


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


def test_large_files_arrive_in_ranges_and_small_ones_at_once(source: Source, here: Path) -> None:
    fetch(source, here)

    assert found(here) == source.contents
    ends = {("large", start, min(start + PIECE_BYTES, len(LARGE))) for start in STARTS}
    assert set(source.asked) == {("small", 0, len(SMALL)), ("empty", 0, 0), *ends}
    assert len(source.asked) == 5


def test_ranges_may_arrive_in_any_order(source: Source, here: Path) -> None:
    # given a first range that begins to arrive when the others are there
    last, written = threading.Event(), threading.Event()

    def late(key: str, begin: int) -> None:
        if key == "large" and begin == 0:
            assert last.wait(PATIENCE)
            assert written.wait(PATIENCE)
        elif key == "large" and begin == STARTS[-1]:
            last.set()

    def look(_: int) -> None:
        for partial in [] if written.is_set() else list(here.glob("*.part")):
            with suppress(FileNotFoundError):  # the small ones get their names meanwhile
                content = partial.read_bytes()
                if len(content) == len(LARGE) and content[PIECE_BYTES:] == LARGE[PIECE_BYTES:]:
                    written.set()

    source.before = late
    # when they are fetched, then the whole is right
    fetch(source, here, look)
    assert written.is_set()
    assert found(here) == source.contents


def test_a_connection_that_breaks_goes_on_from_there(source: Source, here: Path) -> None:
    source.breaks = 3

    fetch(source, here)

    assert found(here) == source.contents
    assert len([begin for key, begin, _ in source.asked if key == "large" and begin not in STARTS]) == 3


def test_a_connection_that_breaks_for_ever_is_an_outage_and_what_was_whole_stays(source: Source, here: Path) -> None:
    source.breaks = 1000

    with pytest.raises(Unavailable, match="the connection broke"):
        fetch(source, here)

    assert found(here).items() <= {"small": SMALL, "empty": b""}.items()


def test_what_is_not_what_was_stored_is_refused_and_not_left_behind(source: Source, here: Path) -> None:
    for key, content in {"large": LARGE[:-1] + b"!", "small": b"!" + SMALL[1:]}.items():
        with pytest.raises(InvalidInput, match=f"the content of {key} was altered after it was stored"):
            fetch(source, here / key, stored={key: content})

        assert found(here / key).keys() <= source.contents.keys() - {key}


def test_it_is_told_how_many_bytes_have_come(source: Source, here: Path) -> None:
    told: list[int] = []

    fetch(source, here, told.append)

    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, len(LARGE) + len(SMALL))


def test_what_is_gone_is_named(source: Source, here: Path) -> None:
    with pytest.raises(InvalidInput, match="the content of absent is not in the store"):
        fetch(source, here, stored={"absent": LARGE})


def test_who_is_to_stop_does_not_wait_for_a_server_that_hangs(source: Source, here: Path) -> None:
    # given a server that says nothing until the test is over
    over, begun = threading.Event(), threading.Event()

    def hang(key: str, begin: int) -> None:
        begun.set()
        over.wait(PATIENCE)

    def stop(_: int) -> None:
        if begun.is_set():
            raise Cancelled

    source.before = hang
    # when its caller is to stop, then it does, and nothing is left
    with pytest.raises(Cancelled):
        fetch(source, here, stop)
    assert not over.is_set()
    assert found(here) == {}
    over.set()


def test_one_small_file_is_fetched_without_a_thread_and_more_are_not(source: Source, here: Path) -> None:
    here.mkdir()
    fetch_from(source.read, {here / "small": file_of(SMALL, "small")}, lambda _: None)
    assert source.threads == {threading.get_ident()}

    fetch(source, here)
    assert len(source.threads) > 1


def test_a_manifests_length_is_not_known_and_it_comes_whole(source: Source, here: Path) -> None:
    here.mkdir()
    digest = hashlib.sha256(SMALL).hexdigest()
    tree = Stored(uuid4(), "model", "inode/directory", "small", 10 * PIECE_BYTES, digest, ArtefactKind.TREE)

    fetch_from(source.read, {here / "manifest": tree}, lambda _: None)

    assert (found(here), source.asked) == ({"manifest": SMALL}, [("small", 0, None)])


def test_memory_stays_flat_whatever_the_files_have(here: Path) -> None:
    # given two files of several ranges, whose bytes are made when they are asked for
    length = 2 * PIECE_BYTES
    digest = hashlib.sha256(bytes(length)).hexdigest()
    files = {here / name: Stored(uuid4(), name, "a/b", name, length, digest) for name in ("a", "b")}
    here.mkdir()

    def read(file: Stored, begin: int, end: int | None) -> Iterator[bytes]:
        for _ in range(begin, end or 0, 2**20):
            yield bytes(2**20)

    # when they are fetched
    tracemalloc.start()
    try:
        fetch_from(read, files, lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # then a few mebibytes are held at once
    assert {path.stat().st_size for path in here.iterdir()} == {length}
    assert peak < 2**20 * 20


# Runs where the system has no memory for another thread's stack.
NARROW = """
import hashlib, resource, sys, threading
from pathlib import Path
from uuid import uuid4
from control.fetching import fetch_each
from vlyard.files import Stored

def read(file, begin, end):
    seen.add(threading.get_ident())
    yield b"content"

seen, folder = set(), Path(sys.argv[1])
digest = hashlib.sha256(b"content").hexdigest()
files = {folder / name: Stored(uuid4(), name, "a/b", name, 7, digest) for name in "abc"}
threading.stack_size(2**30)
resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
fetch_each(read, files, lambda _: None)
assert seen == {threading.get_ident()}
"""


def test_where_there_is_no_memory_for_threads_the_caller_does_the_work(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NARROW, str(tmp_path)], cwd=Path.cwd(), timeout=60)

    assert done.returncode == 0
    assert found(tmp_path) == dict.fromkeys("abc", b"content")
