"""Whether and when an attempt that ended badly is followed by another."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.retrying import Backoff, Past, counts, retry_delay
from vlyard.errors import Blame

RNG = Random(7)
BACKOFF = Backoff(base_seconds=2, cap_seconds=600)


@pytest.mark.parametrize(
    ("blame", "retried_after"),
    [
        (Blame.USER, []),  # the same input fails again
        (Blame.TRANSIENT, [1, 2, 3, 4]),
        (Blame.OUTAGE, [1, 2, 3, 4, 5, 6, 7]),  # far longer than the kind's attempts
        (Blame.LOST, [1, 2, 3, 4]),
        (Blame.OOM, [1, 2, 3, 4]),  # where those before ended otherwise
    ],
)
def test_the_blame_decides_after_which_failures_there_is_another_attempt(
    blame: Blame, retried_after: list[int]
) -> None:
    delays = {failures: retry_delay(blame, Past(failures, 1), 5, BACKOFF, RNG) for failures in range(1, 8)}
    assert [failures for failures, delay in delays.items() if delay is not None] == retried_after


@pytest.mark.parametrize(
    ("past", "again"),
    [
        (Past(failures=1, shortages=1), True),  # when the neighbours may be gone, or with half the micro-batch
        (Past(failures=2, shortages=1), True),  # after a worker that was lost
        (Past(failures=2, shortages=2), False),  # it does not fit
        (Past(failures=3, shortages=1), False),
    ],
)
def test_memory_may_run_out_once_whatever_went_wrong_before(past: Past, again: bool) -> None:
    assert (retry_delay(Blame.OOM, past, 3, BACKOFF, RNG) is not None) is again


@pytest.mark.parametrize("blame", Blame)
def test_only_an_attempt_that_was_lost_and_left_more_than_it_was_given_does_not_count(blame: Blame) -> None:
    assert counts(blame, progressed=False)
    assert counts(blame, progressed=True) is (blame is not Blame.LOST)


def test_an_outage_is_waited_out_for_about_an_hour_and_not_for_ever() -> None:
    delays: list[float] = []
    while (delay := retry_delay(Blame.OUTAGE, Past(len(delays) + 1), 3, BACKOFF, RNG)) is not None:
        delays.append(delay)
    assert 30 * 60 < sum(delays) < 120 * 60


def test_a_lost_attempt_is_followed_at_once() -> None:
    assert retry_delay(Blame.LOST, Past(1), 3, BACKOFF, RNG) == 0


@given(st.integers(1, 60), st.floats(0, 100), st.floats(0, 1_000), st.integers())
def test_a_delay_is_anywhere_up_to_twice_as_long_each_time_and_never_above_the_cap(
    failures: int, base: float, cap: float, seed: int
) -> None:
    delay = Backoff(base, cap).delay(failures, Random(seed))
    assert 0 <= delay <= min(cap, base * 2 ** (failures - 1))


def test_delays_spread_over_their_whole_range() -> None:
    delays = [BACKOFF.delay(4, RNG) for _ in range(500)]
    assert min(delays) < 1
    assert max(delays) > 15


def test_a_job_that_always_fails_ends_after_its_attempts() -> None:
    failures = 1
    while retry_delay(Blame.TRANSIENT, Past(failures), 3, BACKOFF, RNG) is not None:
        failures += 1
    assert failures == 3
