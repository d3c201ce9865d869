"""`vlyard webhooks`: who is told of the ends of your team's jobs."""

import json
from itertools import islice
from typing import Annotated
from uuid import UUID

import typer

from vlyard.cli.listing import AsJson, ListingGroup, print_json, show_facts, show_table, time_text
from vlyard.client import Client
from vlyard.client.connection import checked_id
from vlyard.errors import Unavailable
from vlyard.webhooks import Delivery, EventType, Webhook

_group = typer.Typer(
    cls=ListingGroup, help="Webhooks, which are told of the ends of jobs; lists them where no verb is given."
)

TITLES = ("ID", "EVENT", "JOB", "STATE", "TRIES", "LAST", "NEXT TRY", "CREATED")

WebhookId = Annotated[UUID, typer.Argument(metavar="ID", help="The webhook's id.", parser=checked_id)]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.add_typer(_group, name="webhooks")


@_group.command("list")
def list_webhooks(as_json: AsJson = False) -> None:
    """List your team's webhooks, the oldest first."""
    with Client() as client:
        found = client.webhooks()
    if as_json:
        print_json(found)
    else:
        show_table(("ID", "URL", "EVENTS", "STATE"), [_row(each) for each in found])


@_group.command("create")
def create_webhook(
    url: Annotated[str, typer.Argument(metavar="URL", help="An https:// URL that answers POST with 2xx.")],
    event: Annotated[
        list[EventType] | None, typer.Option(help="A type of message to send there; repeatable; all if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have messages sent somewhere when jobs end, and print the secret that signs them: it is shown only now."""
    with Client() as client:
        _show(client.create_webhook(url, event or tuple(EventType)), as_json)


@_group.command("delete")
def delete_webhook(id: WebhookId, as_json: AsJson = False) -> None:
    """Have nothing sent there any more, and forget the webhook."""
    with Client() as client:
        client.delete_webhook(id)
    print(json.dumps({"deleted": str(id)}) if as_json else f"webhook {id} is deleted")


@_group.command("test")
def send_ping(id: WebhookId, as_json: AsJson = False) -> None:
    """Have a message of the type `ping` sent there at once; fail if it does not arrive."""
    with Client() as client:
        ping = client.test_webhook(id)
    if as_json:
        print_json(ping)
    said = ping.error or f"status {ping.status}"
    if not ping.delivered:
        raise Unavailable(f"the receiver did not take the ping: {said}")
    if not as_json:
        print(f"the receiver took the ping: {said}")


@_group.command("enable")
def enable_webhook(id: WebhookId, as_json: AsJson = False) -> None:
    """Have messages sent there again, once it was disabled."""
    with Client() as client:
        _show(client.enable_webhook(id), as_json)


@_group.command("rotate")
def rotate_secret(id: WebhookId, as_json: AsJson = False) -> None:
    """Give a webhook another secret, from now on the only one, and print it: it is shown only now."""
    with Client() as client:
        _show(client.rotate_webhook_secret(id), as_json)


@_group.command("deliveries")
def list_deliveries(
    id: WebhookId,
    limit: Annotated[int, typer.Option(min=1, help="How many to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the messages to a webhook, the newest first, and how their tries went."""
    with Client() as client:
        found = list(islice(client.deliveries(id), limit))
    if as_json:
        print_json(found)
    else:
        show_table(TITLES, map(_delivery_row, found))


@_group.command("redeliver")
def redeliver(
    id: Annotated[
        UUID,
        typer.Argument(metavar="ID", help="The message's id, the `webhook-id` that it came with.", parser=checked_id),
    ],
    as_json: AsJson = False,
) -> None:
    """Have a message sent again at once, with the same id, whatever became of it."""
    with Client() as client:
        again = client.redeliver(id)
    if as_json:
        print_json(again)
    else:
        print(f"message {id} is sent again")


def _show(webhook: Webhook, as_json: bool) -> None:
    if as_json:
        print_json(webhook)
        return
    id, url, events, state = _row(webhook)
    facts = [("webhook", id), ("url", url), ("events", events), ("created", time_text(webhook.created_at))]
    show_facts([*facts, ("state", state), ("secret", webhook.secret or "")])


def _row(webhook: Webhook) -> tuple[str, str, str, str]:
    since = f"disabled since {time_text(webhook.disabled_at)}: {webhook.disabled_because or 'it does not say why'}"
    return str(webhook.id), webhook.url, ", ".join(webhook.events), since if webhook.disabled_at else "enabled"


def _delivery_row(message: Delivery) -> tuple[str, ...]:
    last = message.last_error or (f"answered {message.last_status}" if message.last_status else "")
    facts = (str(message.id), message.type, str(message.job), message.state, str(message.tries), last)
    return *facts, time_text(message.next_at), time_text(message.created_at)
