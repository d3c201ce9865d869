import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from control.settings import Settings
from vlyard.errors import Cancelled
from workers.model_cache import ModelCache
from workers.models import cache_of


def fill_with(size: int) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "content").write_bytes(b"x" * size)

    return fill


def keep(cache: ModelCache, key: str, size: int = 100) -> None:
    with cache.entry(key, size, fill_with(size), lambda: None) as entry:
        assert (entry / "content").stat().st_size == size
    time.sleep(0.01)  # so that the times of use differ


def kept(cache: ModelCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir() if path.is_dir()}


def test_the_longest_unused_goes_when_another_needs_its_room(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache", 300)
    for key in ("one", "two", "three", "one", "four"):
        keep(cache, key)

    assert kept(cache) == {"one", "three", "four"}


def test_what_is_in_use_stays_even_where_it_takes_more_than_there_is(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache", 150)

    with cache.entry("one", 100, fill_with(100), lambda: None) as entry:
        keep(cache, "two")
        keep(cache, "three")
        assert entry.is_dir()

        assert kept(cache) == {"one", "three"}


def test_what_is_still_to_come_takes_its_room_from_the_beginning(tmp_path: Path) -> None:
    # given an entry that nobody uses, and one that has begun to come
    cache, begun, end = ModelCache(tmp_path / "cache", 300), threading.Event(), threading.Event()
    keep(cache, "unused")

    def slowly(folder: Path) -> None:
        begun.set()
        end.wait(20)
        (folder / "content").write_bytes(b"x" * 150)

    def want() -> None:
        with cache.entry("coming", 150, slowly, lambda: None):
            pass

    maker = threading.Thread(target=want)
    maker.start()
    begun.wait(20)
    assert kept(cache) == {"unused", "coming.part"}
    # when a third one comes, for which there is room only beside what lies there now
    keep(cache, "third")
    end.set()
    maker.join(20)
    # then the three were never together
    assert kept(cache) == {"coming", "third"}
    # and what was planned once and is there counts as what it is
    keep(cache, "last", 40)
    assert kept(cache) == {"coming", "third", "last"}


def test_an_entry_that_becomes_larger_than_was_thought_takes_its_room_from_the_others(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache", 300)
    for key in ("one", "two"):
        keep(cache, key)

    with cache.entry("large", 50, fill_with(200), lambda: None):
        assert kept(cache) == {"two", "large"}


def test_several_who_want_the_same_make_it_once(tmp_path: Path) -> None:
    cache, filled, together = ModelCache(tmp_path / "cache", 1000), [], threading.Barrier(4)

    def fill(folder: Path) -> None:
        filled.append(folder)
        time.sleep(0.2)
        (folder / "content").write_bytes(b"whole")

    def want() -> None:
        together.wait()
        with cache.entry("one", 5, fill, lambda: None) as entry:
            assert (entry / "content").read_bytes() == b"whole"

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(filled) == 1


def test_who_waits_for_another_process_can_be_called_off(tmp_path: Path) -> None:
    cache, begun, end = ModelCache(tmp_path / "cache", 1000), threading.Event(), threading.Event()

    def slowly(folder: Path) -> None:
        begun.set()
        end.wait(20)

    def want() -> None:
        with cache.entry("one", 5, slowly, lambda: None):
            pass

    def stop() -> None:
        raise Cancelled

    maker = threading.Thread(target=want)
    maker.start()
    begun.wait(20)
    with pytest.raises(Cancelled), cache.entry("one", 5, fill_with(5), stop):
        pass
    end.set()
    maker.join(20)


KILLED = """
import os, signal, sys
from pathlib import Path
from workers.model_cache import ModelCache

def fill(folder):
    (folder / "half").write_text("half")
    print("filling", flush=True)
    signal.pause()

with ModelCache(Path(sys.argv[1]), 1000).entry("one", 5, fill, lambda: None):
    pass
"""


def test_a_process_killed_while_it_fetches_leaves_its_part_for_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
    cache = ModelCache(folder, 1000)

    assert not cache.has("one")
    with cache.entry("one", 5, fill_with(5), lambda: None) as entry:
        assert {path.name for path in entry.iterdir()} == {"half", "content"}


def test_what_was_left_before_the_machine_stopped_is_not_gone_on_with(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, 1000)
    (tmp_path / "one.part").mkdir()
    (tmp_path / "one.part" / "half").write_text("half")
    (tmp_path / "one.lock").write_text("5 another-start-of-the-machine")

    with cache.entry("one", 5, fill_with(5), lambda: None) as entry:
        assert {path.name for path in entry.iterdir()} == {"content"}


def test_what_dead_processes_left_goes_with_the_rest(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "cache", 150)
    for left in ("dead.part", "removed.gone"):
        (cache.folder / left).mkdir(parents=True)
        (cache.folder / left / "content").write_bytes(b"x" * 100)

    keep(cache, "one")

    assert kept(cache) == {"one"}


def test_the_cache_is_where_the_setting_says_or_in_the_users_own(tmp_path: Path) -> None:
    said = cache_of(Settings(cache_dir=tmp_path, cache_bytes=7))

    assert said == ModelCache(tmp_path / "models", 7)
    assert cache_of(Settings()).folder.parts[-2:] == ("vlyard", "models")
