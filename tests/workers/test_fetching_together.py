"""Weights that come while processes die: nothing is taken for whole that is not, and nothing comes twice for that."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from control.artefacts import ArtefactStore
from control.fetching import PIECE_BYTES
from control.settings import Settings
from control.stack.stack import Stack
from tests.system import System, eventually
from tests.workers.hubs import COMMIT, REPOSITORY, StandIn, serving
from vlyard.errors import ChildDied, InvalidInput
from vlyard.files import Stored
from vlyard.trees import file_key, read_manifest
from workers.context import Context
from workers.isolation import Assignment, Report, run_isolated
from workers.lease import Hold
from workers.model_cache import ModelCache
from workers.models import cache_of, resolve
from workers.qwen.loading import DEMO_FOLDER
from workers.trees import fetch_tree, store_tree

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Shop:
    """A store with a model in it, and the cache of a machine."""

    settings: Settings
    store: ArtefactStore
    tree: Stored

    def context(self, folder: Path) -> Context:
        given = {self.tree.id: self.tree}
        return Context(uuid4(), 1, folder, given, self.store, "jobs/1", lambda *_: None, lambda: None)

    def alter(self, path: str) -> None:
        """Flip a bit of a file in the store."""
        (file,) = [each for each in read_manifest(b"".join(self.store.read(self.tree.key))) if each.path == path]
        key = file_key(self.tree.key, file.sha256)
        content = bytearray(b"".join(self.store.read(key)))
        content[len(content) // 2] ^= 1
        self.store.put_bytes(key, bytes(content), "a/b")


def shop(servers: Stack, folder: Path, model: Path) -> Shop:
    named = {name.removeprefix("VLYARD_").lower(): value for name, value in servers.settings.items() if "_S3_" in name}
    own = {"s3_bucket": f"together-{uuid4().hex}", "cache_dir": folder / "cache"}
    settings = Settings.model_validate({**named, **own})
    store = ArtefactStore(settings)
    store.ensure_bucket()
    tree = store_tree(store, model, "models/one", listing=folder / "listing", check=lambda: None)
    return Shop(settings, store, tree)


# --- from the artefact store ----------------------------------------------------------------------------------

# Fetches a tree into the cache, and says and does no more once its small file is there.
FETCHES = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from control.artefacts import ArtefactStore
from control.settings import Settings
from vlyard.files import ArtefactKind, Stored
from workers.model_cache import ModelCache
from workers.trees import fetch_tree

folder, key, bytes, sha256 = sys.argv[1:]
tree = Stored(None, "one", "inode/directory", key, int(bytes), sha256, ArtefactKind.TREE)

def check():
    if [path for path in Path(folder).rglob("*") if len(path.name) == 64]:
        print("half", flush=True)
        signal.pause()

def fill(entry):
    fetch_tree(ArtefactStore(Settings()), tree, entry / "one", check)

with ModelCache(Path(folder), 2**40).entry("key", tree.bytes, fill, lambda: None):
    print("whole", flush=True)
"""


def test_of_two_processes_that_fetch_the_same_one_is_killed_and_the_other_has_it_whole(
    servers: Stack, tmp_path: Path
) -> None:
    # given a process in the midst of fetching a model, and another one that wants it, too
    model = tmp_path / "model"
    model.mkdir()
    contents = {"config.json": b"{}", "weights": os.urandom(PIECE_BYTES + 7), "other": os.urandom(PIECE_BYTES + 9)}
    for name, content in contents.items():
        (model / name).write_bytes(content)
    ours = shop(servers, tmp_path, model)
    cache, tree = ModelCache(tmp_path / "machine", 2**40), ours.tree
    environment = {**os.environ, **servers.settings, "VLYARD_S3_BUCKET": ours.settings.s3_bucket}
    words = [sys.executable, "-c", FETCHES, str(cache.folder), tree.key, str(tree.bytes), tree.sha256]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, cwd=Path.cwd())
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    there = {path.name: path.stat().st_mtime_ns for path in cache.folder.rglob("*") if len(path.name) == 64}
    assert there
    found: dict[str, bytes] = {}
    times: dict[str, int] = {}

    def want() -> None:
        def fill(entry: Path) -> None:
            fetch_tree(ours.store, tree, entry / "one", lambda: None)

        with cache.entry("key", tree.bytes, fill, lambda: None) as entry:
            files = [path for path in entry.rglob("*") if path.is_file()]
            found.update({path.name: path.read_bytes() for path in files})
            times.update({path.name: path.stat().st_mtime_ns for path in files})

    other = threading.Thread(target=want)
    other.start()
    # when the first one is killed
    assert not cache.has("key")
    process.kill()
    process.wait(20)
    other.join(60)
    # then the other one has all of it, and what was there before was not fetched again
    assert found == contents
    assert set(there.values()) <= set(times.values())


def test_an_object_that_was_corrupted_is_refused_and_leaves_no_entry(servers: Stack, tmp_path: Path) -> None:
    ours = shop(servers, tmp_path, DEMO_FOLDER)
    ours.alter(WEIGHTS)

    with (
        pytest.raises(InvalidInput, match=r"the content of model\.safetensors was altered after it was stored"),
        resolve(ours.tree.id, None, 1, ours.context(tmp_path / "job"), ours.settings),
    ):
        pass

    assert [path for path in cache_of(ours.settings).folder.iterdir() if path.is_dir()] == []


# --- from a hub -----------------------------------------------------------------------------------------------


@pytest.fixture
def child_environment(system: System, tmp_path: Path) -> Iterator[None]:
    """The settings that a worker's environment gives to its children, with a cache of the test's own."""
    before = dict(os.environ)
    os.environ.update({**system.environment, "VLYARD_CACHE_DIR": str(tmp_path / "cache")})
    yield
    os.environ.clear()
    os.environ.update(before)


def attempt(number: int, folder: Path, on: str) -> Report:
    """An attempt at an import, in a worker's child."""
    folder.mkdir()
    spec: dict[str, object] = {"kind": "import", "source": f"hub:{REPOSITORY}", "hub": on, "name": "tiny"}
    place = f"tests/{uuid4()}"
    job = uuid4()
    assignment = Assignment(kind="import", spec=spec, job=job, attempt=number, folder=folder, inputs=[], prefix=place)
    return run_isolated(assignment, Hold((job, number), time.monotonic(), killable=True), 1.0)


@pytest.mark.usefixtures("child_environment")
@pytest.mark.parametrize(
    ("on", "endpoint"), [("huggingface", "VLYARD_HUB_ENDPOINT"), ("modelscope", "VLYARD_OTHER_HUB_ENDPOINT")]
)
def test_an_import_whose_process_is_killed_goes_on_where_its_download_stopped(
    system: System, tmp_path: Path, on: str, endpoint: str
) -> None:
    with serving(StandIn(DEMO_FOLDER, hang_at=700_000)) as hub:
        os.environ[endpoint] = hub.url

        def kill() -> None:
            def half() -> bool:
                parts = list((tmp_path / "cache").rglob(f"{WEIGHTS}.part"))
                return bool(parts) and parts[0].stat().st_size == 700_000

            eventually(half, seconds=90, what="half of the weights")
            for child in psutil.Process().children():
                if "workers.child" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)

        # given an import whose child is killed while it downloads
        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(ChildDied, match="SIGKILL"):
            attempt(1, tmp_path / "first", on)
        killer.join()
        hub.go_on.set()
        hub.asked.clear()
        # when the next attempt runs on that machine
        report = attempt(2, tmp_path / "second", on)
    # then it asked for what was missing alone, and all of it is stored
    assert hub.asked == [(WEIGHTS, "bytes=700000-")]
    assert report.result is not None
    assert report.result["base"] == f"hub:{REPOSITORY}@{COMMIT}"
    (stored,) = report.published
    fetch_tree(system.store, stored, tmp_path / "stored", lambda: None)
    assert (tmp_path / "stored" / WEIGHTS).read_bytes() == (DEMO_FOLDER / WEIGHTS).read_bytes()
