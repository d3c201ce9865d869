"""/v1/webhooks: made with a secret that is shown once, looked at, tried out, deleted."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text, update

from control.delivering import Deliverer
from control.settings import Settings
from db.models import WebhookDelivery
from db.session import Database
from tests.api.conftest import Join
from tests.api.visitor import Visitor
from tests.receiver import Receiver

NOBODY = "http://127.0.0.1:1/"  # allowed here, and nobody listens


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().open() as receiver:
        yield receiver


def make(visitor: Visitor, url: str = NOBODY, *events: str, **more: Any) -> dict[str, Any]:
    reply = visitor.post("/v1/webhooks", {"url": url, "events": list(events) or ["job.cancelled"]}, **more)
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def test_the_secret_is_shown_when_the_webhook_is_made_and_never_again(visitor: Visitor) -> None:
    made = make(visitor)
    assert made["secret"].startswith("whsec_")
    shown = {**made, "secret": None}
    assert visitor.get(f"/v1/webhooks/{made['id']}").json() == shown
    assert visitor.get("/v1/webhooks").json() == {"data": [shown]}


def test_a_retry_of_the_request_finds_the_same_webhook_and_its_secret(visitor: Visitor) -> None:
    first, second = (make(visitor, headers={"Idempotency-Key": "once"}) for _ in range(2))
    assert first == second
    assert len(visitor.get("/v1/webhooks").json()["data"]) == 1


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "https://10.0.0.1/", "events": ["job.failed"]}, "/url"),
        ({"url": "http://93.184.216.34/", "events": ["job.failed"]}, "/url"),
        ({"url": "", "events": ["job.failed"]}, "/url"),
        ({"url": NOBODY, "events": []}, "/events"),
        ({"url": NOBODY, "events": ["job.exploded"]}, "/events/0"),
        ({"url": NOBODY}, "/events"),
        ({"url": NOBODY, "events": ["job.failed"], "secret": "mine"}, "/secret"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused_with_its_reason(
    visitor: Visitor, body: dict[str, Any], pointer: str
) -> None:
    reply = visitor.post("/v1/webhooks", body)
    assert reply.status_code == 422
    assert [error["pointer"] for error in reply.json()["errors"]] == [pointer]


def test_a_stranger_learns_nothing_of_names_and_addresses(visitor: Visitor) -> None:
    body = {"url": "https://10.0.0.1/", "events": ["job.failed"]}
    headers = {"Authorization": "Bearer vly_000000000000_" + 64 * "0"}
    assert visitor.client.post("/v1/webhooks", json=body, headers=headers).status_code == 401


def test_a_ping_is_sent_at_once_and_its_answer_told(visitor: Visitor, receiver: Receiver) -> None:
    made = make(visitor, receiver.url)
    receiver.answers = [200, 500]
    good, bad = (visitor.post(f"/v1/webhooks/{made['id']}/test").json() for _ in range(2))
    assert good == {"id": receiver.received[0].id, "delivered": True, "status": 200, "error": None}
    assert bad == {"id": receiver.received[1].id, "delivered": False, "status": 500, "error": "answered 500"}
    message = receiver.received[0].verified(made["secret"])
    assert message == {"type": "ping", "timestamp": message["timestamp"], "data": {"webhook": made["id"]}}


def test_a_retry_of_a_ping_sends_the_same_message_again_and_no_other_one(visitor: Visitor, receiver: Receiver) -> None:
    made = make(visitor, receiver.url)
    path, key = f"/v1/webhooks/{made['id']}/test", {"Idempotency-Key": "once"}
    first, again = (visitor.post(path, headers=key).json() for _ in range(2))
    assert first == again
    assert [message.id for message in receiver.received] == [first["id"]] * 2
    assert receiver.received[0].verified(made["secret"]) == receiver.received[1].verified(made["secret"])
    assert visitor.post(path).json()["id"] != first["id"]


def test_a_new_secret_signs_what_is_sent_from_now_on(visitor: Visitor, receiver: Receiver) -> None:
    made = make(visitor, receiver.url)
    new = visitor.post(f"/v1/webhooks/{made['id']}/rotate").json()
    assert new["secret"].startswith("whsec_")
    assert {**new, "secret": made["secret"]} == made
    visitor.post(f"/v1/webhooks/{made['id']}/test")
    assert receiver.received[0].verified(new["secret"])["type"] == "ping"
    assert visitor.get(f"/v1/webhooks/{made['id']}").json()["secret"] is None


def test_a_retry_of_a_rotation_finds_the_same_new_secret(visitor: Visitor) -> None:
    made = make(visitor)
    first, again = (
        visitor.post(f"/v1/webhooks/{made['id']}/rotate", headers={"Idempotency-Key": "turn"}).json() for _ in range(2)
    )
    assert first == again
    assert visitor.post(f"/v1/webhooks/{made['id']}/rotate").json()["secret"] != first["secret"] != made["secret"]


def test_a_key_that_was_used_for_another_request_neither_pings_nor_enables(
    visitor: Visitor, receiver: Receiver
) -> None:
    key = {"Idempotency-Key": "once"}
    made = make(visitor, receiver.url, headers=key)
    for what in ("test", "enable"):
        reply = visitor.post(f"/v1/webhooks/{made['id']}/{what}", headers=key)
        assert (reply.status_code, reply.json()["code"]) == (422, "idempotency_mismatch")
    assert receiver.received == []


def test_a_retry_of_enabling_changes_nothing_when_the_webhook_was_disabled_since(
    visitor: Visitor, receiver: Receiver, database: Database, api_settings: Settings
) -> None:
    # given a webhook that was enabled, and then disabled because its receiver said that it is gone
    made = make(visitor, receiver.url)
    path, key = f"/v1/webhooks/{made['id']}/enable", {"Idempotency-Key": "once"}
    assert visitor.post(path, headers=key).json()["disabled_at"] is None
    receiver.answers = [410]
    visitor.post(f"/v1/jobs/{visitor.submit()['id']}/cancel")
    deliver_all(database, api_settings)
    # when the first request is sent again, then it is answered and changes nothing; a new one enables
    assert visitor.post(path, headers=key).json()["disabled_because"] == "the receiver answered 410 Gone"
    assert visitor.post(path, headers={"Idempotency-Key": "again"}).json()["disabled_at"] is None


def test_a_ping_to_nobody_says_so(visitor: Visitor) -> None:
    reply = visitor.post(f"/v1/webhooks/{make(visitor)['id']}/test").json()
    assert (reply["delivered"], reply["status"]) == (False, None)
    assert reply["error"]


def test_the_end_of_a_job_is_delivered_and_listed(
    visitor: Visitor, receiver: Receiver, database: Database, api_settings: Settings
) -> None:
    made = make(visitor, receiver.url, "job.cancelled", "job.failed")
    job = visitor.submit()["id"]
    visitor.post(f"/v1/jobs/{job}/cancel")
    path = f"/v1/webhooks/{made['id']}/deliveries"
    [waiting] = visitor.get(path).json()["data"]
    assert (waiting["type"], waiting["job"], waiting["state"], waiting["tries"]) == ("job.cancelled", job, "pending", 0)
    deliver_all(database, api_settings)
    [sent] = visitor.get(path).json()["data"]
    assert (sent["state"], sent["tries"], sent["last_status"], sent["next_at"]) == ("delivered", 1, 204, None)
    assert sent["id"] == receiver.received[0].id


def test_all_messages_are_listed_page_by_page_also_those_of_one_moment(visitor: Visitor, database: Database) -> None:
    # given messages of which some were made in one transaction
    made = make(visitor)
    for _ in range(5):
        visitor.post(f"/v1/jobs/{visitor.submit()['id']}/cancel")
    path = f"/v1/webhooks/{made['id']}/deliveries"
    every = [each["id"] for each in visitor.get(path).json()["data"]]
    alike = WebhookDelivery.id.in_(every[1:4])
    with database.transaction() as session:
        session.execute(update(WebhookDelivery).where(alike).values(created_at=text("now() - interval '1 minute'")))
    every = [each["id"] for each in visitor.get(path).json()["data"]]
    # when they are read two at a time
    pages: list[list[str]] = []
    cursor = None
    while not pages or cursor:
        page = visitor.get(path, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        pages.append([each["id"] for each in page["data"]])
        cursor = page["next_cursor"]
    # then each is there once, in the order of the whole list
    assert pages == [every[:2], every[2:4], every[4:]]
    # and a message that is not this webhook's is no place in it
    other = f"/v1/webhooks/{make(visitor)['id']}/deliveries"
    assert visitor.get(other, params={"cursor": every[0]}).json() == {"data": [], "next_cursor": None}


def make_gone(visitor: Visitor, receiver: Receiver, database: Database, settings: Settings) -> dict[str, Any]:
    """A webhook that was disabled, since its receiver answered the end of a job with 410."""
    made = make(visitor, receiver.url)
    receiver.answers = [410]
    visitor.post(f"/v1/jobs/{visitor.submit()['id']}/cancel")
    deliver_all(database, settings)
    return made


def test_a_message_that_was_given_up_or_has_arrived_is_sent_again_with_the_same_id(
    visitor: Visitor, receiver: Receiver, database: Database, api_settings: Settings
) -> None:
    # given a message that was given up when its webhook was disabled
    made = make_gone(visitor, receiver, database, api_settings)
    listed = f"/v1/webhooks/{made['id']}/deliveries"
    [given_up] = visitor.get(listed).json()["data"]
    path = f"/v1/webhooks/deliveries/{given_up['id']}/redeliver"
    # then it is not sent while nothing is sent there
    refused = visitor.post(path)
    assert (refused.status_code, refused.json()["code"], given_up["state"]) == (409, "conflict", "exhausted")
    # when it is asked for once the webhook is enabled, twice with one key
    visitor.post(f"/v1/webhooks/{made['id']}/enable")
    again = visitor.post(path, headers={"Idempotency-Key": "again"})
    assert (again.status_code, again.json()["state"], again.json()["tries"]) == (200, "pending", 1)
    deliver_all(database, api_settings)
    assert visitor.post(path, headers={"Idempotency-Key": "again"}).json()["state"] == "delivered"
    deliver_all(database, api_settings)
    # then it comes once more, as the same message, and once more where that is asked for
    assert len(receiver.received) == 2
    visitor.post(path)
    deliver_all(database, api_settings)
    assert {message.id for message in receiver.received} == {given_up["id"]}
    assert len({str(message.verified(made["secret"])) for message in receiver.received}) == 1
    [arrived] = visitor.get(listed).json()["data"]
    assert (arrived["state"], arrived["tries"], arrived["last_error"]) == ("delivered", 3, None)


def test_a_deleted_webhook_is_told_nothing_more(visitor: Visitor, receiver: Receiver) -> None:
    made = make(visitor, receiver.url)
    visitor.post(f"/v1/jobs/{visitor.submit()['id']}/cancel")
    assert visitor.call("DELETE", f"/v1/webhooks/{made['id']}").status_code == 204
    assert visitor.get(f"/v1/webhooks/{made['id']}").status_code == 404
    visitor.post(f"/v1/jobs/{visitor.submit()['id']}/cancel")
    assert visitor.get("/v1/webhooks").json() == {"data": []}


def test_a_disabled_webhook_that_is_enabled_again_is_told_of_what_ends_from_then_on(
    visitor: Visitor, receiver: Receiver, database: Database, api_settings: Settings
) -> None:
    # given a webhook whose receiver has said that it is gone, and a job that ended meanwhile
    made = make_gone(visitor, receiver, database, api_settings)
    assert visitor.get(f"/v1/webhooks/{made['id']}").json()["disabled_because"] == "the receiver answered 410 Gone"
    visitor.post(f"/v1/jobs/{visitor.submit()['id']}/cancel")
    # when it is enabled again
    reply = visitor.post(f"/v1/webhooks/{made['id']}/enable")
    assert (reply.status_code, reply.json()) == (200, {**made, "secret": None})
    # then it is told of the next job alone
    after = visitor.submit()["id"]
    visitor.post(f"/v1/jobs/{after}/cancel")
    deliver_all(database, api_settings)
    told = [message.verified(made["secret"])["data"]["id"] for message in receiver.received]
    assert told[1:] == [after]


def deliver_all(database: Database, settings: Settings) -> None:
    while Deliverer(database, settings).tick():  # other tests' messages too
        pass


def test_a_stranger_neither_deletes_nor_tries_out_a_webhook(join: Join, receiver: Receiver) -> None:
    owner, stranger = join(), join()
    made = make(owner, receiver.url)
    assert stranger.call("DELETE", f"/v1/webhooks/{made['id']}").status_code == 404
    assert stranger.post(f"/v1/webhooks/{made['id']}/test").status_code == 404
    assert stranger.post(f"/v1/webhooks/{made['id']}/enable").status_code == 404
    assert receiver.received == []
    assert owner.get(f"/v1/webhooks/{made['id']}").status_code == 200
    assert stranger.get("/v1/webhooks").json() == {"data": []}
