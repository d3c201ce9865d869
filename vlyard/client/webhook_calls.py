"""The client's calls about webhooks."""

from collections.abc import Iterable, Iterator
from uuid import UUID

from vlyard.client.connection import Connection, checked, checked_id
from vlyard.webhooks import Deliveries, Delivery, EventType, NewWebhook, Ping, Webhook, Webhooks

PING = 15.0  # seconds that the receiver may take to answer


class WebhookCalls(Connection):
    """Webhooks."""

    def webhooks(self) -> tuple[Webhook, ...]:
        """The team's webhooks, oldest first, without their secrets."""
        return self._call(Webhooks, "GET", "/v1/webhooks").data

    def webhook(self, id: UUID | str) -> Webhook:
        """Look at a webhook."""
        return self._call(Webhook, "GET", f"/v1/webhooks/{checked_id(id)}")

    def create_webhook(
        self, url: str, events: Iterable[EventType | str] = tuple(EventType), *, idempotency_key: str | None = None
    ) -> Webhook:
        """Have messages sent there when jobs end: of these types, or all. The answer holds the secret, only now."""
        body = checked(NewWebhook, "the webhook", url=url, events=tuple(events))
        return self._call(Webhook, "POST", "/v1/webhooks", body=body, key=idempotency_key)

    def delete_webhook(self, id: UUID | str) -> None:
        """Have nothing sent there any more."""
        self._delete(f"/v1/webhooks/{checked_id(id)}")

    def test_webhook(self, id: UUID | str) -> Ping:
        """Have a `ping` sent there at once; says how it was answered."""
        return self._call(Ping, "POST", f"/v1/webhooks/{checked_id(id)}/test", patience=PING)

    def enable_webhook(self, id: UUID | str) -> Webhook:
        """Have messages sent there again, once it was disabled."""
        return self._call(Webhook, "POST", f"/v1/webhooks/{checked_id(id)}/enable")

    def rotate_webhook_secret(self, id: UUID | str, *, idempotency_key: str | None = None) -> Webhook:
        """Give a webhook another secret, from now on the only one; the answer holds it, only now."""
        return self._call(Webhook, "POST", f"/v1/webhooks/{checked_id(id)}/rotate", key=idempotency_key)

    def deliveries(self, id: UUID | str) -> Iterator[Delivery]:
        """The messages to a webhook, newest first, and how their tries went; fetched page by page as it goes on."""
        path = f"/v1/webhooks/{checked_id(id)}/deliveries"
        page = self._call(Deliveries, "GET", path)
        yield from page.data
        while page.next_cursor is not None:
            page = self._call(Deliveries, "GET", path, params={"cursor": page.next_cursor})
            yield from page.data

    def redeliver(self, id: UUID | str, *, idempotency_key: str | None = None) -> Delivery:
        """Have a message sent again at once, with the same id. Raises `Conflict` where its webhook is disabled."""
        path = f"/v1/webhooks/deliveries/{checked_id(id)}/redeliver"
        return self._call(Delivery, "POST", path, key=idempotency_key)
