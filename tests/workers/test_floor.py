"""Who may begin beside whom in a worker."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import pytest

from workers.floor import Floor

PROBATION_SECONDS = 1.0
A_MOMENT = 0.3


@pytest.fixture
def floor() -> Floor:
    return Floor(PROBATION_SECONDS)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def never() -> bool:
    return False


def stays(entry: AbstractContextManager[bool]) -> Callable[[], None]:
    """Begin, and go on until what is returned is called."""
    stack = ExitStack()
    assert stack.enter_context(entry)
    return stack.close


@dataclass(frozen=True)
class Comer:
    """Somebody who waits in a thread, and stays for as long as the test lasts."""

    entry: AbstractContextManager[bool]
    free: Future[bool]

    def has_begun(self) -> bool:
        time.sleep(A_MOMENT)
        return self.free.done()


def comes(threads: ThreadPoolExecutor, entry: AbstractContextManager[bool]) -> Comer:
    return Comer(entry, threads.submit(entry.__enter__))


def test_many_share_it_and_who_wants_it_alone_waits_for_all_and_goes_before_those_that_come_later(
    floor: Floor, threads: ThreadPoolExecutor
) -> None:
    first, second = stays(floor.shared(never)), stays(floor.shared(never))
    alone = comes(threads, floor.alone(never))
    later = comes(threads, floor.shared(never))
    first()
    assert not alone.has_begun()
    second()
    assert alone.has_begun()
    assert not later.has_begun()


def test_who_is_on_probation_waits_for_those_that_have_only_begun_and_keeps_others_out(
    floor: Floor, threads: ThreadPoolExecutor
) -> None:
    # given one that has begun
    other = stays(floor.shared(never))
    began = time.monotonic()
    # when one comes that is on probation, and another that is not
    suspect = comes(threads, floor.on_probation(never))
    later = comes(threads, floor.shared(never))
    # then it begins when the first has been there for the time of a probation, which goes on
    assert suspect.free.result(10)
    assert time.monotonic() - began >= PROBATION_SECONDS
    # and the other when the probation is over, though it goes on, too
    began = time.monotonic()
    assert not later.has_begun()
    assert later.free.result(10)
    assert time.monotonic() - began >= PROBATION_SECONDS - A_MOMENT
    other()


def test_a_probation_ends_with_who_was_on_it(floor: Floor, threads: ThreadPoolExecutor) -> None:
    ends = stays(floor.on_probation(never))
    later = comes(threads, floor.on_probation(never))
    assert not later.has_begun()
    ends()
    assert later.has_begun()


def test_who_has_it_alone_has_no_probation_to_stand(floor: Floor, threads: ThreadPoolExecutor) -> None:
    ends = stays(floor.alone(never))
    later = comes(threads, floor.on_probation(never))
    time.sleep(PROBATION_SECONDS)
    assert not later.has_begun()
    ends()
    assert later.has_begun()


@pytest.mark.parametrize("entry", [Floor.shared, Floor.alone, Floor.on_probation])
def test_who_gives_up_has_nothing_and_keeps_nobody_waiting(
    floor: Floor,
    threads: ThreadPoolExecutor,
    entry: Callable[[Floor, Callable[[], bool]], AbstractContextManager[bool]],
) -> None:
    ends = stays(floor.alone(never))
    with entry(floor, lambda: True) as free:
        assert not free
    ends()
    assert comes(threads, floor.shared(never)).has_begun()
