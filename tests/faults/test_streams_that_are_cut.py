"""Streams of events whose API dies: the client sees every event once, in order."""

from concurrent.futures import ThreadPoolExecutor

from tests.api.happenings import end, happen
from tests.system import System, eventually
from vlyard import Client


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
