"""Chunks are done side by side, and their results come in order; whatever goes wrong comes in its turn."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from vlyard.errors import ChildDied, Complaint, InvalidInput
from vlyard.formats.crew import Crew, usable_cores
from vlyard.formats.member import Doing


@dataclass(frozen=True)
class Squares:
    """Squares numbers, slowly, and says in which process."""

    seconds: float = 0.02

    def do(self, chunk: list[int]) -> tuple[int, list[int]]:
        time.sleep(self.seconds)
        if 13 in chunk:
            raise InvalidInput("It cannot be squared", [Complaint("chunk", "it holds 13")])
        return os.getpid(), [number**2 for number in chunk]


@dataclass(frozen=True)
class Deaths:
    """Kills every process that is not the one that it was made in."""

    home: int

    def do(self, chunk: list[int]) -> list[int]:
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return chunk


def in_order(work: Doing[list[int], Any], chunks: Iterable[list[int]], processes: int) -> Iterator[Any]:
    with Crew(processes) as crew:
        yield from crew.in_order(work, chunks)


def _chunks(count: int) -> Iterator[list[int]]:
    yield from ([number, number + 100] for number in range(14, count + 14))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_their_chunks(processes: int) -> None:
    results = list(in_order(Squares(), _chunks(60), processes))
    assert [numbers for _, numbers in results] == [[n**2 for n in chunk] for chunk in _chunks(60)]
    assert len({process for process, _ in results}) <= processes


def test_helpers_do_a_part_of_the_work_and_so_does_whoever_waits() -> None:
    workers = {process for process, _ in in_order(Squares(0.05), _chunks(60), 2)}
    assert os.getpid() in workers
    assert len(workers) == 2


def test_only_a_few_chunks_are_taken_ahead() -> None:
    taken: list[list[int]] = []

    def told() -> Iterator[list[int]]:
        for chunk in _chunks(200):
            taken.append(chunk)
            yield chunk

    results = in_order(Squares(0.001), told(), 2)
    next(results)
    assert len(taken) < 20
    results.close()  # type: ignore[attr-defined]  # it is a generator


def test_what_a_chunk_raises_comes_in_its_turn_with_its_complaints() -> None:
    chunks = [[1], [2], [3], [13], [5], [6]]
    results = in_order(Squares(), chunks, 2)
    assert [next(results)[1] for _ in range(3)] == [[1], [4], [9]]
    with pytest.raises(InvalidInput, match="it holds 13"):
        next(results)


def test_a_helper_that_is_killed_is_told_of_and_none_is_left_behind() -> None:
    with pytest.raises(ChildDied, match="status -9"):
        list(in_order(Deaths(os.getpid()), _chunks(200), 2))
    assert not [child for child in psutil.Process().children() if "crew" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", None), ("150000 100000", 1), ("50000 100000", 1), (None, None)]
)
def test_the_quota_of_a_container_is_kept(tmp_path: Path, quota: str | None, cores: int | None) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path / "cpu.max") == (cores or len(os.sched_getaffinity(0)))


def test_no_helper_outlives_what_it_helped() -> None:
    list(in_order(Squares(0.001), _chunks(20), 3))
    assert not [child for child in psutil.Process().children() if "crew" in " ".join(child.cmdline())]
