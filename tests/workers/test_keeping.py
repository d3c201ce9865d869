"""Checkpoints that are stored while whoever made them goes on."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from control.artefacts import ArtefactStore
from tests.system import System
from vlyard.errors import Unavailable
from workers.context import Checkpoint, Context
from workers.keeping import Keeping


@pytest.fixture
def vlyard_store(system: System) -> ArtefactStore:
    return system.store


def context(tmp_path: Path, store: ArtefactStore, hand_over: Callable[[Checkpoint], None]) -> Context:
    return Context(
        job=uuid4(), attempt=1, scratch=tmp_path / "scratch", inputs={}, prefix=f"keeping/{uuid4()}", store=store,
        tell=lambda *_: None, check=lambda: None, hand_over=hand_over,
    )  # fmt: skip


def written(tmp_path: Path, step: int) -> Path:
    folder = tmp_path / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights of %d" % step)
    return folder


def test_who_makes_checkpoints_goes_on_while_one_is_stored_and_may_remove_it(
    vlyard_store: ArtefactStore, tmp_path: Path
) -> None:
    # given a checkpoint that is not stored yet
    handed: list[Checkpoint] = []
    let = threading.Event()

    def hand_over(checkpoint: Checkpoint) -> None:
        assert let.wait(60)
        handed.append(checkpoint)

    with Keeping(context(tmp_path, vlyard_store, hand_over), latest=2) as keeping:
        keeping.keep(written(tmp_path, 1), 1)
        assert handed == []
        # when its maker removes it, and makes another one
        shutil.rmtree(tmp_path / "checkpoint-1")
        let.set()
        keeping.keep(written(tmp_path, 2), 2)
    # then both are stored, in their order, before all is over
    assert [each.step for each in handed] == [1, 2]
    for each in handed:
        vlyard_store.fetch(each.tree, tmp_path / "manifest")  # compares it with its sum
    assert not list((tmp_path / "scratch").glob("keeping-*"))


def test_what_cannot_be_stored_is_raised_with_the_next_one_or_at_the_end(
    vlyard_store: ArtefactStore, tmp_path: Path
) -> None:
    def refuse(_: Checkpoint) -> None:
        raise Unavailable("no")

    with pytest.raises(Unavailable), Keeping(context(tmp_path, vlyard_store, refuse), latest=2) as keeping:
        keeping.keep(written(tmp_path, 1), 1)
    with Keeping(context(tmp_path, vlyard_store, refuse), latest=2) as keeping:
        keeping.keep(written(tmp_path, 2), 2)
        with pytest.raises(Unavailable):
            keeping.keep(written(tmp_path, 3), 3)


def test_the_error_of_a_training_is_told_and_not_that_of_its_last_checkpoint(
    vlyard_store: ArtefactStore, tmp_path: Path
) -> None:
    def refuse(_: Checkpoint) -> None:
        raise Unavailable("no")

    def train() -> None:
        with Keeping(context(tmp_path, vlyard_store, refuse), latest=2) as keeping:
            keeping.keep(written(tmp_path, 1), 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
