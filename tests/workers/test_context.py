"""What a handler says through its context, and where it goes."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from control.artefacts import ArtefactStore
from control.settings import Settings
from tests.system import System
from vlyard.errors import Cancelled
from vlyard.files import ArtefactKind
from workers.context import Checkpoint, Context


def stop() -> None:
    raise Cancelled


def context(tmp_path: Path, told: list[Any], **more: Any) -> Context:
    known: dict[str, Any] = {"tell": lambda *words: told.append(words), "say": told.append, "check": lambda: None}
    known["store"] = ArtefactStore(Settings())
    return Context(job=uuid4(), attempt=1, scratch=tmp_path, inputs={}, prefix="prefix", **{**known, **more})


@pytest.fixture
def vlyard_store(system: System) -> ArtefactStore:
    return system.store


def test_progress_carries_a_rate_where_there_is_one(tmp_path: Path) -> None:
    told: list[Any] = []
    speaking = context(tmp_path, told)
    speaking.progress(0.5, "half")
    speaking.progress(0.6, "more", rate=12.5, unit="samples")
    assert told == [(0.5, "half"), (0.6, "more", 12.5, "samples")]


def test_who_says_how_far_it_is_hears_that_it_is_to_stop(tmp_path: Path) -> None:
    told: list[Any] = []
    with pytest.raises(Cancelled):
        context(tmp_path, told, check=stop).progress(0.5)
    assert told == []


def test_a_line_of_the_log_goes_where_the_log_is(tmp_path: Path) -> None:
    told: list[Any] = []
    context(tmp_path, told).log("epoch 1")
    assert told == ["epoch 1"]


def test_without_a_log_a_line_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Context(uuid4(), 1, tmp_path, {}, ArtefactStore(Settings()), "prefix", lambda *_: None, lambda: None)
    quiet.log("epoch 1")
    assert capsys.readouterr().out == "epoch 1\n"


def test_what_was_measured_is_told_without_numbers_that_json_lacks(tmp_path: Path) -> None:
    told: list[Any] = []
    context(tmp_path, told, record=told.append).note({"step": 1, "loss": float("nan"), "rate": float("inf")})
    assert told == [{"step": 1, "loss": None, "rate": None}]


def test_who_says_what_it_measured_hears_that_it_is_to_stop(tmp_path: Path) -> None:
    told: list[Any] = []
    with pytest.raises(Cancelled):
        context(tmp_path, told, check=stop, record=told.append).note({"step": 1})
    assert told == []


def test_a_checkpoint_is_handed_over_once_it_is_in_the_store_also_by_who_is_to_stop(
    vlyard_store: ArtefactStore, tmp_path: Path
) -> None:
    # given a handler that is to stop, and a folder
    handed: list[Checkpoint] = []
    keeping = context(tmp_path / "scratch", [], check=stop, hand_over=handed.append, store=vlyard_store)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "weights").write_bytes(b"w")
    # when it keeps that
    keeping.keep(tmp_path / "state", 7, latest=3)
    # then it is a tree at its attempt's place
    [checkpoint] = handed
    assert (checkpoint.step, checkpoint.latest, checkpoint.tree.kind) == (7, 3, ArtefactKind.TREE)
    assert checkpoint.tree.key == "prefix/checkpoint-7/manifest.json"
    vlyard_store.fetch(checkpoint.tree, tmp_path / "manifest")


def test_what_an_attempt_left_in_its_scratch_folder_goes_with_it(tmp_path: Path) -> None:
    # given an attempt that needed a folder, and one that needed none
    needy, frugal = context(tmp_path / "needy", []), context(tmp_path / "frugal", [])
    (needy.folder / "left").write_text("over")
    # when they are over
    needy.clear()
    frugal.clear()
    # then nothing is left of either
    assert list(tmp_path.iterdir()) == []
