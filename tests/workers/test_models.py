import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from control.settings import Settings
from tests.workers.hubs import COMMIT, REPOSITORY, StandIn, serving
from vlyard.errors import Cancelled, InvalidInput, RefusedArchive, Unavailable
from vlyard.files import Stored, sha256_of
from vlyard.formats.archive import pack
from workers.context import Context
from workers.model_cache import ModelCache
from workers.models import cache_of, resolve
from workers.qwen.checkpoint import check_checkpoint
from workers.qwen.loading import DEMO_FOLDER
from workers.qwen.warm import Source
from workers.trees import store_tree


@dataclass
class Shelf:
    """An artefact store that is a folder, and what was fetched from it."""

    folder: Path
    fetched: list[str] = field(default_factory=list)

    def fetch(self, file: Stored, path: Path) -> None:
        self.fetched.append(file.name)
        shutil.copyfile(self.folder / file.key, path)

    def put(self, key: str, path: Path, media_type: str) -> tuple[int, str]:  # noqa: ARG002 - a folder keeps no types
        target = self.folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return target.stat().st_size, sha256_of(target)

    def tree(self, folder: Path) -> Stored:
        return store_tree(self, folder, f"trees/{uuid4()}/{folder.name}", listing=self._scratch(), check=lambda: None)

    def archive(self, folder: Path, name: str) -> Stored:
        packed = self._scratch()
        pack(folder, packed)
        return self.file(packed, name)

    def file(self, path: Path, name: str) -> Stored:
        size, sha256 = self.put(f"files/{uuid4()}", path, "")
        (key,) = [f"files/{each.name}" for each in (self.folder / "files").iterdir() if sha256_of(each) == sha256]
        return Stored(uuid4(), name, "application/zip", key, size, sha256)

    def _scratch(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        return self.folder / f"scratch-{uuid4()}"


@dataclass
class Bench:
    """Settings, a store, and jobs that name what is in it."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.folder / "store")

    def settings(self, **values: Any) -> Settings:
        return Settings(cache_dir=self.folder / "cache", **values)

    def context(self, *inputs: Stored, check: Callable[[], None] = lambda: None) -> Context:
        def tell(*words: object) -> None:
            self.said.append(" ".join(map(str, words)))

        given = {each.id: each for each in inputs}
        return Context(uuid4(), 1, self.folder / "job", given, self.shelf, "job/1", tell, check, self.said.append)

    def found(self, model: UUID | str, *inputs: Stored, adapter: UUID | None = None, **settings: Any) -> Source:
        with resolve(model, adapter, 1, self.context(*inputs), self.settings(**settings)) as source:
            check_checkpoint(source.folder)
            return source


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# --- names ----------------------------------------------------------------------------------------------------


def test_the_demo_and_the_operators_models_are_found_by_their_names(bench: Bench) -> None:
    mine = bench.folder / "models" / "mine-v1.2"
    shutil.copytree(DEMO_FOLDER, mine)

    assert bench.found("demo") == Source(DEMO_FOLDER)
    assert bench.found("mine-v1.2", models_dir=mine.parent) == Source(mine)


@pytest.mark.parametrize("name", ["yours", "..", ".", ".hidden", "mine/config", "/etc", "", "readme.txt"])
def test_a_name_that_there_is_not_is_refused_with_those_that_there_are(bench: Bench, name: str) -> None:
    models = bench.folder / "models"
    for folder in ("mine", "other", ".hidden"):
        (models / folder).mkdir(parents=True)
    (models / "readme.txt").touch()

    with pytest.raises(
        InvalidInput, match=r"/spec/model: this worker has no model .* \(it has demo, mine, other; hub:"
    ):
        bench.found(name, models_dir=models)


# --- artefacts ------------------------------------------------------------------------------------------------


def test_a_model_in_a_tree_is_fetched_once_for_all_jobs(bench: Bench) -> None:
    tree = bench.shelf.tree(DEMO_FOLDER)

    first = bench.found(tree.id, tree)
    fetched = len(bench.shelf.fetched)
    again = bench.found(str(tree.id), tree)

    assert first == again
    assert (first.folder / "model.safetensors").read_bytes() == (DEMO_FOLDER / "model.safetensors").read_bytes()
    assert first.folder.name == "demo_model"
    assert len(bench.shelf.fetched) == fetched > 5


@pytest.mark.parametrize("around", ["", "run-7/checkpoint-200"])
def test_a_model_in_an_archive_is_found_also_where_its_folder_was_packed(bench: Bench, around: str) -> None:
    shutil.copytree(DEMO_FOLDER, bench.folder / "packed" / around)
    archive = bench.shelf.archive(bench.folder / "packed", "run 7 (best).zip")

    source = bench.found(archive.id, archive)

    assert source.folder.name == (Path(around).name or "run_7__best_.zip")
    assert not list((bench.folder / "cache").rglob("*.archive"))


def test_the_same_content_under_another_id_is_not_fetched_again(bench: Bench) -> None:
    one, two = (bench.shelf.tree(DEMO_FOLDER) for _ in range(2))
    bench.found(one.id, one)
    bench.shelf.fetched.clear()

    assert bench.found(two.id, two).folder.is_dir()
    assert (one.id != two.id, bench.shelf.fetched) == (True, [])


def test_what_is_in_the_cache_is_still_not_for_a_job_that_does_not_name_it(bench: Bench) -> None:
    tree = bench.shelf.tree(DEMO_FOLDER)
    bench.found(tree.id, tree)

    with pytest.raises(InvalidInput, match=f"/spec/model: the job names no artefact {tree.id}"):
        bench.found(tree.id)
    with pytest.raises(InvalidInput, match=f"/spec/adapter: the job names no artefact {tree.id}"):
        bench.found("demo", adapter=tree.id)


def test_an_adapter_is_an_artefact_beside_the_model(bench: Bench) -> None:
    (bench.folder / "adapter").mkdir()
    (bench.folder / "adapter" / "adapter_config.json").write_text("{}")
    archive = bench.shelf.archive(bench.folder / "adapter", "lora.zip")

    source = bench.found("demo", archive, adapter=archive.id)

    assert source.folder == DEMO_FOLDER
    assert source.adapter is not None
    assert [path.name for path in source.adapter.iterdir()] == ["adapter_config.json"]


def test_a_file_that_is_no_archive_is_refused_and_leaves_nothing(bench: Bench) -> None:
    weights = bench.shelf.file(DEMO_FOLDER / "model.safetensors", "model.safetensors")

    with pytest.raises(RefusedArchive, match="neither a zip nor a tar"):
        bench.found(weights.id, weights)

    assert not [path for path in (bench.folder / "cache" / "models").iterdir() if path.is_dir()]


def test_an_archive_that_leads_out_of_its_folder_is_refused(bench: Bench) -> None:
    path = bench.folder / "evil.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("../../config.json", "{}")
    archive = bench.shelf.file(path, "evil.zip")

    with pytest.raises(RefusedArchive, match="its path leads upwards"):
        bench.found(archive.id, archive)


# --- hubs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_model_of_a_hub_is_fetched_once_and_told_with_its_commit(bench: Bench, kind: str) -> None:
    with serving(StandIn(DEMO_FOLDER)) as hub:
        first = bench.found(f"hub:{REPOSITORY}", hub=kind, hub_endpoint=hub.url)
        asked = len(hub.asked)
        again = bench.found(f"hub:{REPOSITORY}", hub=kind, hub_endpoint=hub.url)

        assert (first.revision, first.folder.name) == (COMMIT, "Tiny-VL")
        assert (again, len(hub.asked)) == (first, asked)
        assert any(f"fetching {REPOSITORY}: 2 of 2 MB" in said for said in bench.said)


def test_a_revision_can_be_named(bench: Bench) -> None:
    with serving(StandIn(DEMO_FOLDER)) as hub:
        tagged = bench.found(f"hub:{REPOSITORY}@v1", hub_endpoint=hub.url)

        with pytest.raises(InvalidInput, match=f"hub:{REPOSITORY}@v2: .* has no such repository or revision"):
            bench.found(f"hub:{REPOSITORY}@v2", hub_endpoint=hub.url)
    assert tagged.revision == COMMIT


def test_what_was_fetched_is_used_while_the_hub_is_away(bench: Bench) -> None:
    with serving(StandIn(DEMO_FOLDER)) as hub:
        first = bench.found(f"hub:{REPOSITORY}", hub_endpoint=hub.url)
    (note,) = (bench.folder / "cache" / "hub").iterdir()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"at": 0}))  # long ago

    again = bench.found(f"hub:{REPOSITORY}", hub_endpoint=hub.url)

    assert again == first
    assert any("cannot be reached" in said and "using what was fetched earlier" in said for said in bench.said)
    with pytest.raises(Unavailable, match="cannot be reached"):
        bench.found("hub:Acme/Other", hub_endpoint=hub.url)


# --- the cache ------------------------------------------------------------------------------------------------


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
