"""Receivers of webhooks that are down, broken and slow: each message comes in the end, and holds nothing else up."""

import threading

import pytest

from db.models import DeliveryState
from tests.control.hooks import cancelled_job, hook, make_due, messages
from tests.receiver import HOST, Receiver
from tests.system import System, eventually
from vlyard.jobs.state import State


@pytest.mark.settings(WEBHOOK_HOSTS=HOST, WEBHOOK_TIMEOUT_SECONDS="1")
def test_a_message_outlives_a_receiver_that_is_down_then_broken_then_slow(system: System) -> None:
    # given a dispatcher, and a receiver that is not there yet
    receiver = Receiver(answers=[500])
    with receiver.open():
        row = hook(system, receiver.url)
    system.start_dispatcher()
    job = cancelled_job(system)
    _await_error(system, "connection")
    # when it is there, and answers with an error
    with receiver.open():
        make_due(system)
        _await_error(system, "answered 500")
    # and then takes longer than it may
    told = threading.Event()
    receiver.before = lambda: told.wait(60)
    with receiver.open():
        make_due(system)
        _await_error(system, "no answer within 1 s")
        told.set()
        # then it hears of the job as soon as it answers, and all that came had one id and was signed
        make_due(system)
        eventually(lambda: messages(system)[0].state is DeliveryState.DELIVERED)
    assert len(receiver.received) >= 3
    assert {request.id for request in receiver.received} == {str(messages(system)[0].id)}
    assert {request.verified(row.secret)["data"]["id"] for request in receiver.received} == {str(job)}


@pytest.mark.slow
@pytest.mark.settings(WEBHOOK_HOSTS=HOST, WEBHOOK_TIMEOUT_SECONDS="60")
def test_a_receiver_that_is_slow_delays_neither_jobs_nor_what_it_is_not_told(system: System) -> None:
    # given a receiver that thinks about its message for as long as the test likes
    told, asked = threading.Event(), threading.Event()

    def think() -> None:
        asked.set()
        told.wait(120)

    with Receiver(before=think).open() as receiver:
        hook(system, receiver.url)
        system.start_dispatcher()
        system.start_worker(name="worker")
        cancelled_job(system)
        assert asked.wait(60)
        # when jobs are submitted meanwhile
        jobs = [system.submit(echo=str(number)) for number in range(10)]
        # then they run
        assert all(system.ended(job).state is State.SUCCEEDED for job in jobs)
        assert messages(system)[0].state is DeliveryState.PENDING
        # and once it has answered, it hears of them too
        told.set()
        eventually(lambda: [each.state for each in messages(system)] == [DeliveryState.DELIVERED] * 11, 60)
    assert len({request.id for request in receiver.received}) == len(receiver.received) == 11


def _await_error(system: System, error: str) -> None:
    """Wait until the message's latest try has ended so, and has not been the last one."""
    eventually(lambda: error in (messages(system)[0].last_error or ""), what=error)
    assert messages(system)[0].state is DeliveryState.PENDING
