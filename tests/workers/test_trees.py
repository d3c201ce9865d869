"""Directories that handlers read and make: whole, checked, and equal where they are equal."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from control.artefacts import ArtefactStore
from control.settings import Settings
from control.stack.stack import Stack
from vlyard.demo.shapes import draw_dataset
from vlyard.errors import Cancelled, InvalidInput
from vlyard.files import ArtefactKind, Stored
from vlyard.jobs.conversion import ConversionSpec
from vlyard.trees import file_key, read_manifest
from workers.context import Context
from workers.conversion import run
from workers.trees import fetch_tree

FILES = {"config.json": b"{}", "weights/a.bin": b"abc", "weights/b.bin": b"abc", "weights/空.bin": b""}


@pytest.fixture(scope="module")
def store(servers: Stack) -> ArtefactStore:
    named = {name.removeprefix("VLYARD_").lower(): value for name, value in servers.settings.items() if "_S3_" in name}
    store = ArtefactStore(Settings.model_validate({**named, "s3_bucket": f"trees-{uuid4().hex}"}))
    store.ensure_bucket()
    return store


def context(store: ArtefactStore, tmp_path: Path, *inputs: Stored, **more: Any) -> Context:
    known = {"tell": lambda *_: None, "check": lambda: None}
    known_inputs = {file.id: file for file in inputs}
    return Context(uuid4(), 2, tmp_path / uuid4().hex, known_inputs, store, f"jobs/{uuid4()}/2", **{**known, **more})


def write(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tree(store: ArtefactStore, tmp_path: Path) -> Stored:
    """A tree that an attempt has published."""
    making = context(store, tmp_path)
    making.publish_tree(write(tmp_path / "made"), "model")
    [file] = making.published
    return file


def test_a_published_directory_is_another_jobs_input_folder(store: ArtefactStore, tmp_path: Path, tree: Stored) -> None:
    reading = context(store, tmp_path, tree)
    folder = reading.input(tree.id)
    assert folder.name == "model"
    assert content(folder) == FILES
    assert reading.input(tree.id) == folder


def test_fetching_tells_how_many_bytes_are_there(store: ArtefactStore, tmp_path: Path, tree: Stored) -> None:
    told: list[int] = []

    fetch_tree(store, tree, tmp_path / "here", lambda: None, told.append)

    assert (told[0], told[-1]) == (0, 5)  # equal files come once


def test_a_published_directory_is_one_artefact_below_its_attempt(store: ArtefactStore, tmp_path: Path) -> None:
    making = context(store, tmp_path)
    identity = making.publish_tree(write(tmp_path / "model"))
    [file] = making.published
    assert (file.id, file.name, file.kind, file.bytes) == (identity, "model", ArtefactKind.TREE, 8)
    assert {key for key, _ in store.listed(making.prefix)} == {
        f"{making.prefix}/model/manifest.json",
        *(file_key(file.key, each.sha256) for each in read_manifest(b"".join(store.read(file.key)))),
    }
    assert list(making.folder.iterdir()) == []


def test_equal_directories_have_equal_digests(store: ArtefactStore, tmp_path: Path, tree: Stored) -> None:
    making = context(store, tmp_path)
    making.publish_tree(write(tmp_path / "again", dict(reversed(FILES.items()))))
    making.publish_tree(write(tmp_path / "other", {**FILES, "more": b""}))
    assert [file.sha256 == tree.sha256 for file in making.published] == [True, False]


def test_a_file_or_a_manifest_that_was_altered_is_refused(store: ArtefactStore, tmp_path: Path, tree: Stored) -> None:
    other = replace(tree, id=uuid4(), sha256="0" * 64)
    with pytest.raises(InvalidInput, match="altered"):
        context(store, tmp_path, other).input(other.id)
    entry = read_manifest(b"".join(store.read(tree.key)))[1]
    store.put_bytes(file_key(tree.key, entry.sha256), b"ABC", "a/b")
    reading = context(store, tmp_path, tree)
    for _ in range(2):  # what was fetched before the fault is not taken for the whole
        with pytest.raises(InvalidInput, match=r"weights/a\.bin was altered"):
            reading.input(tree.id)


def test_a_file_that_changes_while_it_is_stored_is_named(store: ArtefactStore, tmp_path: Path) -> None:
    folder, checks = write(tmp_path / "model"), iter(range(100))

    def check() -> None:
        if next(checks) > len(FILES):  # the folder has been read, and is being stored
            (folder / "config.json").write_bytes(b"{1}")

    with pytest.raises(InvalidInput, match=r"config\.json: it changed while it was stored"):
        context(store, tmp_path, check=check).publish_tree(folder)


def test_who_is_to_stop_stops_between_files(store: ArtefactStore, tmp_path: Path, tree: Stored) -> None:
    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        context(store, tmp_path, tree, check=stop).input(tree.id)
    with pytest.raises(Cancelled):
        context(store, tmp_path, check=stop).publish_tree(write(tmp_path / "model"))


def test_what_cannot_be_in_a_tree_is_named(store: ArtefactStore, tmp_path: Path) -> None:
    making, folder = context(store, tmp_path), write(tmp_path / "model")
    (folder / "link").symlink_to(folder / "weights", target_is_directory=True)
    with pytest.raises(InvalidInput, match="model/link: it is neither a file nor a folder"):
        making.publish_tree(folder)
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidInput, match="model/pipe"):
        making.publish_tree(folder)
    (folder / "pipe").unlink()
    (folder / "back\\slash").touch()
    with pytest.raises(InvalidInput, match="backslash"):
        making.publish_tree(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="there is no file in it"):
        making.publish_tree(tmp_path / "empty")
    assert making.published == []


def test_a_link_to_a_file_counts_as_the_file(store: ArtefactStore, tmp_path: Path) -> None:
    making, folder = context(store, tmp_path), write(tmp_path / "model")
    (tmp_path / "blob").write_bytes(b"from elsewhere")
    (folder / "linked.bin").symlink_to(tmp_path / "blob")
    making.publish_tree(folder)
    [file] = making.published
    assert content(context(store, tmp_path, file).input(file.id)) == {**FILES, "linked.bin": b"from elsewhere"}


def test_a_conversion_reads_a_directory_as_it_reads_an_archive(store: ArtefactStore, tmp_path: Path) -> None:
    # given a directory of pictures and labels
    draw_dataset(tmp_path / "shapes", 3, seed=1)
    making = context(store, tmp_path)
    making.publish_tree(tmp_path / "shapes")
    # when it is converted
    result = run(ConversionSpec(source=making.published[0].id), context(store, tmp_path, *making.published))
    # then all of it is a dataset
    assert (result.samples, result.pictures_refused) == (3, 0)
