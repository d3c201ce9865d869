"""Streams of events whose API dies: the client sees every event once, in order."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.happenings import end, happen
from tests.system import System, eventually
from vlyard import Client

KILLS = 4


def test_a_client_sees_every_event_once_though_the_api_is_killed_in_between(system: System) -> None:
    # given a client that follows a job
    url = system.start_api()
    job = str(system.submit())
    seen: list[int] = []

    def see() -> None:
        with Client(url, system.key(), timeout=120) as client:
            for event in client.events(job):
                seen.append(event.seq)  # one by one, because the test looks meanwhile

    with ThreadPoolExecutor(1) as threads:
        following = threads.submit(see)
        for _ in range(3):
            happen(system.database, job)
        eventually(lambda: len(seen) == 4, what="the first events")
        # when the API is killed, things go on to happen, and an API comes back
        system.kill("api")
        for _ in range(5):
            happen(system.database, job)
        system.start_api()
        happen(system.database, job)
        end(system.database, job)
        following.result(timeout=120)
    # then nothing was missed, and nothing came twice
    assert seen == list(range(1, 12))


@pytest.mark.slow
def test_a_client_sees_every_event_once_though_the_api_is_killed_again_and_again(system: System) -> None:
    # given a client that follows a job to which something happens all the time
    url = system.start_api()
    job = str(system.submit())
    seen: list[int] = []
    over = threading.Event()

    def see() -> None:
        with Client(url, system.key(), timeout=300) as client:
            for event in client.events(job):
                seen.append(event.seq)  # one by one, because the test looks meanwhile

    def go_on() -> int:
        while not over.wait(0.005):
            happen(system.database, job)
        return end(system.database, job)

    with ThreadPoolExecutor(2) as threads:
        following, last = threads.submit(see), threads.submit(go_on)
        try:
            for _ in range(KILLS):
                # when the API is killed in the middle of what it sends, and comes back
                _await_more(seen)
                system.kill("api")
                system.start_api()
        finally:
            over.set()
        following.result(timeout=120)
        # then nothing was missed, and nothing came twice
        assert seen == list(range(1, last.result() + 1))


def _await_more(seen: list[int]) -> None:
    wanted = len(seen) + 20
    eventually(lambda: len(seen) > wanted, 60, "more events")
