"""Messages to webhooks: signed, sent again until they arrive, with one id, and never twice at once."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from standardwebhooks import WebhookVerificationError

from control import webhooks
from control.delivering import Deliverer, pause_after
from db.models import DeliveryState, Webhook, WebhookDelivery
from db.owned import owned
from db.webhooks import remove
from tests.control.hooks import cancelled_job, hook, make_due, messages
from tests.receiver import HOST, Receiver
from tests.system import System, eventually

pytestmark = pytest.mark.settings(WEBHOOK_HOSTS=HOST)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().open() as receiver:
        yield receiver


@pytest.fixture
def deliverer(vlyard: System) -> Deliverer:
    return Deliverer(vlyard.database, vlyard.settings)


def thinking(asked: threading.Event, answer: threading.Event) -> Receiver:
    """A receiver that says when it has been asked, and answers when it is told to."""

    def think() -> None:
        asked.set()
        answer.wait(60)

    return Receiver(before=think)


def test_a_message_arrives_signed(vlyard: System, receiver: Receiver, deliverer: Deliverer) -> None:
    row = hook(vlyard, receiver.url)
    job = cancelled_job(vlyard)
    assert deliverer.tick() == 1
    [request] = receiver.received
    assert request.path == "/hook?team=vision"
    assert request.headers["host"] == f"{HOST}:{receiver.port}"
    assert request.verified(row.secret)["data"]["id"] == str(job)
    with pytest.raises(WebhookVerificationError):
        request.verified(webhooks.new_secret())
    [message] = messages(vlyard)
    assert (message.state, message.tries, message.last_status) == (DeliveryState.DELIVERED, 1, 204)
    assert request.id == str(message.id)
    assert deliverer.tick() == 0


def test_a_refused_message_comes_again_with_the_same_id(
    vlyard: System, receiver: Receiver, deliverer: Deliverer
) -> None:
    row = hook(vlyard, receiver.url)
    cancelled_job(vlyard)
    receiver.answers = [500]
    deliverer.tick()
    [message] = messages(vlyard)
    assert (message.state, message.last_status, message.last_error) == (DeliveryState.PENDING, 500, "answered 500")
    assert deliverer.tick() == 0  # it is not time yet
    make_due(vlyard)
    deliverer.tick()
    first, second = receiver.received
    assert first.id == second.id
    assert first.verified(row.secret) == second.verified(row.secret)
    [message] = messages(vlyard)
    assert (message.state, message.tries, message.last_status, message.last_error) == (
        DeliveryState.DELIVERED, 2, 204, None,
    )  # fmt: skip


def test_a_receiver_that_takes_its_time_holds_up_no_other_and_not_the_end_of_the_process(
    vlyard: System, receiver: Receiver, deliverer: Deliverer
) -> None:
    asked, answer = threading.Event(), threading.Event()
    with thinking(asked, answer).open() as slow:
        # given a receiver that is thinking
        hook(vlyard, slow.url, team="patient")
        hook(vlyard, receiver.url)
        job = cancelled_job(vlyard, "patient")
        deliverer.start()
        assert asked.wait(20)
        # when another one's message comes meanwhile, and another one after that, then they arrive
        for count in (1, 2):
            cancelled_job(vlyard)
            eventually(lambda count=count: len(receiver.received) == count)  # type: ignore[misc]
        # and the process ends at once when it is told to, and gives back what is under way
        began = time.monotonic()
        deliverer.stop()
        assert time.monotonic() - began < 10
        with vlyard.database.transaction() as session:
            [waiting] = session.query(WebhookDelivery).filter_by(job_id=job)
        assert (waiting.state, waiting.tries) == (DeliveryState.PENDING, 0)
        # which comes again with the same id
        Deliverer(vlyard.database, vlyard.settings.model_copy(update={"webhook_timeout_seconds": 0.5})).tick()
        answer.set()
        assert [request.id for request in slow.received] == [str(waiting.id)] * 2


def test_a_message_waits_for_a_receiver_that_is_down(vlyard: System, deliverer: Deliverer) -> None:
    receiver = Receiver()
    with receiver.open():
        hook(vlyard, receiver.url)
    cancelled_job(vlyard)
    deliverer.tick()
    [message] = messages(vlyard)
    assert (message.state, message.tries, message.last_status) == (DeliveryState.PENDING, 1, None)
    assert message.last_error
    make_due(vlyard)
    with receiver.open():
        deliverer.tick()
    assert [row.state for row in messages(vlyard)] == [DeliveryState.DELIVERED]
    assert len(receiver.received) == 1


@pytest.mark.settings(WEBHOOK_HOSTS=HOST, WEBHOOK_TIMEOUT_SECONDS="0.5")
def test_a_receiver_that_does_not_answer_in_time_is_tried_again(vlyard: System, deliverer: Deliverer) -> None:
    answer = threading.Event()
    with Receiver(before=answer.wait).open() as receiver:
        hook(vlyard, receiver.url)
        cancelled_job(vlyard)
        deliverer.tick()
        answer.set()
        [message] = messages(vlyard)
        assert (message.state, message.last_error) == (DeliveryState.PENDING, "no answer within 0.5 s")
        make_due(vlyard)
        deliverer.tick()
    assert [row.state for row in messages(vlyard)] == [DeliveryState.DELIVERED]


def test_a_redirect_is_not_followed(vlyard: System, receiver: Receiver, deliverer: Deliverer) -> None:
    hook(vlyard, receiver.url)
    cancelled_job(vlyard)
    receiver.answers = [307]
    deliverer.tick()
    assert [request.path for request in receiver.received] == ["/hook?team=vision"]
    [message] = messages(vlyard)
    assert (message.state, message.last_error) == (DeliveryState.PENDING, "answered 307: redirects are not followed")


def test_a_receiver_that_is_gone_is_not_told_any_more(vlyard: System, receiver: Receiver, deliverer: Deliverer) -> None:
    row = hook(vlyard, receiver.url)
    for _ in range(6):  # more than one batch to one receiver
        cancelled_job(vlyard)
    receiver.answers = [410] * 6
    deliverer.tick()
    told = len(receiver.received)
    assert told < 6
    cancelled_job(vlyard)
    make_due(vlyard)
    assert deliverer.tick() == 0
    assert [each.state for each in messages(vlyard)] == [DeliveryState.EXHAUSTED] * 6
    with vlyard.database.transaction() as session:
        [now] = session.scalars(owned(Webhook, row.team_id))
        assert now.disabled_at is not None
        assert now.disabled_because == "the receiver answered 410 Gone"


def test_a_message_that_never_arrives_is_given_up_after_ten_tries(
    vlyard: System, receiver: Receiver, deliverer: Deliverer
) -> None:
    hook(vlyard, receiver.url)
    cancelled_job(vlyard)
    receiver.answers = [503] * 20
    for _ in range(12):
        make_due(vlyard)
        deliverer.tick()
    [message] = messages(vlyard)
    assert (message.state, message.tries, len(receiver.received)) == (DeliveryState.EXHAUSTED, 10, 10)


def test_the_pauses_are_those_of_the_specification() -> None:
    hours = 3600
    expected = [5, 300, 1800, 2 * hours, 5 * hours, 10 * hours, 14 * hours, 20 * hours, 24 * hours]
    pauses = [pause_after(tries) for tries in range(1, 10)]
    assert all(pause is not None and low <= pause <= 1.2 * low for pause, low in zip(pauses, expected, strict=True))
    assert pause_after(10) is None
    assert pause_after(11) is None


def test_two_deliverers_at_once_deliver_each_message_once(vlyard: System, receiver: Receiver) -> None:
    for _ in range(4):
        hook(vlyard, receiver.url)
    for _ in range(4):
        cancelled_job(vlyard)
    together = threading.Barrier(2)

    def deliver(_: int) -> int:
        own = Deliverer(vlyard.database, vlyard.settings)
        together.wait()
        return sum(own.tick() for _ in range(4))

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(deliver, range(2))) == 16
    ids = [request.id for request in receiver.received]
    assert len(ids) == len(set(ids)) == 16


def test_a_receiver_with_much_to_hear_delays_no_other(vlyard: System, receiver: Receiver, deliverer: Deliverer) -> None:
    busy = hook(vlyard, receiver.url)
    for _ in range(40):
        cancelled_job(vlyard)
    hook(vlyard, receiver.url, team="others")
    cancelled_job(vlyard, team="others")
    deliverer.tick()
    told = [request.id for request in receiver.received]
    own = {str(row.id) for row in messages(vlyard) if row.webhook_id == busy.id}
    assert set(told) - own


def test_nothing_is_locked_while_a_receiver_thinks(vlyard: System, deliverer: Deliverer) -> None:
    asked, answer = threading.Event(), threading.Event()
    with thinking(asked, answer).open() as receiver, ThreadPoolExecutor(1) as threads:
        row = hook(vlyard, receiver.url)
        cancelled_job(vlyard)
        sent = threads.submit(deliverer.tick)
        try:
            assert asked.wait(30)
            with vlyard.database.transaction() as session:
                remove(session, row.team_id, row.id)  # needs the locks of the webhook and its messages
        finally:
            answer.set()
        assert sent.result() == 1
    assert messages(vlyard) == []


def test_a_message_whose_sender_is_killed_before_it_could_record_is_sent_again(system: System) -> None:
    # given a dispatcher process that is killed while the receiver has the message, and has not answered
    asked, answer = threading.Event(), threading.Event()
    with thinking(asked, answer).open() as receiver:
        row = hook(system, receiver.url)
        system.start_dispatcher()
        cancelled_job(system)
        assert asked.wait(60)
        system.kill("dispatcher")
        answer.set()
        assert [each.state for each in messages(system)] == [DeliveryState.PENDING]
        # when its lease has run out
        make_due(system)
        Deliverer(system.database, system.settings).tick()
        # then the receiver has it twice, and can tell
        eventually(lambda: len(receiver.received) >= 2)
    first, *later = receiver.received
    assert {each.id for each in later} == {first.id}
    assert first.verified(row.secret) == later[-1].verified(row.secret)
    assert [each.state for each in messages(system)] == [DeliveryState.DELIVERED]


@pytest.mark.settings(WEBHOOK_HOSTS="")
def test_an_address_that_is_not_public_is_refused_again_when_a_message_is_sent(
    vlyard: System, receiver: Receiver, deliverer: Deliverer
) -> None:
    # as when the name meant another address on the day the webhook was made
    hook(vlyard, f"https://localhost:{receiver.port}/")
    hook(vlyard, receiver.url)
    cancelled_job(vlyard)
    deliverer.tick()
    errors = sorted(str(row.last_error) for row in messages(vlyard))
    assert "is not a public address" in errors[0]
    assert "is not encrypted" in errors[1]
    assert receiver.received == []
