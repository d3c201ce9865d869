"""What a handler says through its context, and where it goes."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from control.artefacts import ArtefactStore
from control.settings import Settings
from vlyard.errors import Cancelled
from workers.context import Context


def stop() -> None:
    raise Cancelled


def context(tmp_path: Path, told: list[Any], **more: Any) -> Context:
    known = {"tell": lambda *words: told.append(words), "say": told.append, "check": lambda: None}
    return Context(uuid4(), 1, tmp_path, {}, ArtefactStore(Settings()), "prefix", **{**known, **more})


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
