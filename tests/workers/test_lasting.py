"""A folder that outlives an attempt is there for the next one, for no other job, and not for ever."""

import os
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from vlyard.errors import Cancelled, InvalidInput, Unavailable
from workers.lasting import KEPT_SECONDS, lasting

JOB = uuid4()


def _never() -> None:
    """Nobody stops the work."""


def left_behind(place: Path, job: UUID, error: type[BaseException] | None) -> bool:
    """Whether a job's folder with a file in it is still there after a block that ends so."""
    try:
        with lasting(place, job, _never) as folder:
            (folder / "work").touch()
            if error:
                raise error
    except (Unavailable, InvalidInput, KeyboardInterrupt):
        pass
    return (place / str(job)).is_dir()


def test_after_an_outage_the_next_attempt_finds_what_was_done_and_after_any_other_end_nothing(tmp_path: Path) -> None:
    assert left_behind(tmp_path, JOB, Unavailable)
    with lasting(tmp_path, JOB, _never) as folder:
        assert [path.name for path in folder.iterdir()] == ["work"]
    for end in (None, InvalidInput, KeyboardInterrupt):
        assert not left_behind(tmp_path, JOB, end)


def test_another_attempt_of_the_same_job_waits_until_it_has_the_folder_alone(tmp_path: Path) -> None:
    def stop() -> None:
        raise Cancelled

    with lasting(tmp_path, JOB, _never):
        with pytest.raises(Cancelled), lasting(tmp_path, JOB, stop):
            pass
        with lasting(tmp_path, uuid4(), stop):
            pass


def test_what_nobody_came_back_to_for_a_day_goes_when_the_next_folder_is_asked_for(tmp_path: Path) -> None:
    fresh, stale, used = uuid4(), uuid4(), uuid4()
    with lasting(tmp_path, used, _never):
        for job in (fresh, stale):
            assert left_behind(tmp_path, job, Unavailable)
        long_ago = time.time() - KEPT_SECONDS - 1
        for job in (stale, used):
            os.utime(tmp_path / f"{job}.lock", (long_ago, long_ago))

        with lasting(tmp_path, JOB, _never):
            there = {path.name for path in tmp_path.iterdir() if path.is_dir()}

        assert there == {str(JOB), str(fresh), str(used)}
