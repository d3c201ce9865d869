"""Megabytes a second of a model that comes from S3 into the machine's cache, each file compared with its digest.

The baseline is boto3's transfer manager alone: the same files with as many requests at once, into a folder, and
nothing compared. Both are on the disk at the end, not only in the system's memory.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager

from bench.figure import Figure, in_turns
from bench.stage import Stage
from control.artefacts import ArtefactStore
from control.fetching import THREADS
from control.settings import Settings
from vlyard.files import Stored
from vlyard.trees import file_key, read_manifest
from workers.model_cache import ModelCache
from workers.trees import fetch_tree, store_tree

_SHARDS, _SHARD_BYTES = 4, 240 * 2**20
_SMALL, _SMALL_BYTES = 8, 3 * 2**20
_BLOCK = 2**20
_KEY = "model"  # of the entry in the cache


def measure(stage: Stage) -> Sequence[Figure]:
    with stage.yard() as yard, TemporaryDirectory() as name:
        folder, store = Path(name), ArtefactStore(yard.settings)
        tree = _stored(store, folder)
        ours, theirs = in_turns(
            lambda: _per_second(tree, folder / "cache", lambda: _into_the_cache(store, tree, folder / "cache")),
            lambda: _per_second(
                tree, folder / "files", lambda: _by_boto3(yard.settings, store, tree, folder / "files")
            ),
        )
    said = f"boto3's transfer manager, {THREADS} requests at once, nothing compared"
    return [Figure("a model from S3 into the cache, compared", "MB/s", "more", ours, said, theirs, 0.8)]


def _stored(store: ArtefactStore, folder: Path) -> Stored:
    """A tree like a model's: a few large files and a few small ones, no two equal."""
    made = folder / "made"
    made.mkdir()
    sizes = [_SHARD_BYTES + number for number in range(_SHARDS)] + [_SMALL_BYTES] * _SMALL
    for number, size in enumerate(sizes):
        with (made / f"{number:02}.safetensors").open("wb") as file:
            for _ in range(size // _BLOCK):
                file.write(os.urandom(_BLOCK))
            file.write(os.urandom(size % _BLOCK))
    tree = store_tree(store, made, "bench/model", listing=folder / "listing", check=lambda: None)
    shutil.rmtree(made)
    return tree


def _per_second(tree: Stored, target: Path, way: Callable[[], None]) -> float:
    began = time.perf_counter()
    way()
    took = time.perf_counter() - began
    shutil.rmtree(target)
    return tree.bytes / 1e6 / took


def _into_the_cache(store: ArtefactStore, tree: Stored, target: Path) -> None:
    def fill(entry: Path) -> None:
        fetch_tree(store, tree, entry / "model", lambda: None)

    with ModelCache(target, 2 * tree.bytes).entry(_KEY, tree.bytes, fill, lambda: None) as entry:
        assert sum(path.stat().st_size for path in entry.rglob("*") if path.is_file()) == tree.bytes


def _by_boto3(settings: Settings, store: ArtefactStore, tree: Stored, target: Path) -> None:
    target.mkdir()
    numbers = count()
    client: Any = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
    )
    files = read_manifest(b"".join(store.read(tree.key)))
    with create_transfer_manager(client, TransferConfig(max_concurrency=THREADS)) as manager:
        for file in files:
            manager.download(settings.s3_bucket, file_key(tree.key, file.sha256), str(target / str(next(numbers))))
    assert sum(path.stat().st_size for path in target.iterdir()) == tree.bytes
    for path in target.iterdir():
        with path.open("rb") as written:
            os.fsync(written.fileno())
