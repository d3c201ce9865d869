"""Sending the messages to webhooks, signed, until they have arrived or are given up.

Any number of processes may do it. A message is leased first and settled after: nothing is locked while a receiver
thinks, and a process that dies in between leaves a message that is sent again, with the same id.
"""

import asyncio
import base64
import hashlib
import hmac
import random
import ssl
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import httpx
import orjson
import structlog
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from control.accounts import Caller
from control.addresses import addresses_of, checked_url, listed
from control.settings import Settings
from control.webhooks import first_made, key_of
from db import webhooks
from db.models import DeliveryState, Webhook
from db.owned import owned_row
from db.session import Database
from db.webhooks import Due
from vlyard.errors import Unavailable, VLyardError

log = structlog.get_logger()

Answer = TypeVar("Answer")

# Seconds from each failed try to the next, as the specification of Standard Webhooks proposes them.
_PAUSES = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
_AT_ONCE, _AT_ONCE_TO_ONE = 128, 4
_GRACE_SECONDS = 2.0  # for what is under way when the process is told to stop
_LEASE_BEYOND_SECONDS = 45  # beyond the time that a receiver has: for resolving its name, and for recording
_POLL_SECONDS = 1.0
_LONGEST_ERROR = 300  # characters


@dataclass(frozen=True)
class Message:
    """What is sent to a receiver. Its id stays the same over all tries."""

    id: UUID
    url: str
    body: bytes
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Reply:
    """What came of a try: the receiver's status, or why there is none."""

    status: int | None = None
    error: str | None = None

    @property
    def arrived(self) -> bool:
        return self.status is not None and httpx.codes.is_success(self.status)


def signature(secret: str, identity: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of a message: HMAC-SHA256 over id, Unix time and body, version 1 of Standard Webhooks."""
    digest = hmac.digest(key_of(secret), b".".join((identity.encode(), b"%d" % timestamp, body)), hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def pause_after(tries: int) -> float | None:
    """Seconds until the next try after so many failed ones, spread by a fifth; None where that was the last."""
    if tries > len(_PAUSES):
        return None
    return _PAUSES[tries - 1] * random.uniform(1, 1.2)  # noqa: S311  # jitter, not a secret


def ping(session: Session, caller: Caller, webhook: UUID, idempotency_key: str | None) -> Message:
    """The message with which a webhook is tried out; every try of one request has the same. Raises `NotFound`."""
    row = owned_row(session, Webhook, caller.team, webhook)
    identity = first_made(session, caller, idempotency_key, f"ping {webhook}", uuid7())
    milliseconds = identity.int >> 80  # of Unix time: how a UUIDv7 begins (RFC 9562)
    when = datetime.fromtimestamp(milliseconds / 1000, UTC)
    payload = {"type": "ping", "timestamp": when, "data": {"webhook": webhook}}
    return Message(identity, row.url, orjson.dumps(payload), row.secret)


async def post(message: Message, settings: Settings) -> Reply:
    """Send a message once; never raises. All of it, name resolution included, has the receiver's time limit."""
    limit = settings.webhook_timeout_seconds
    try:
        async with asyncio.timeout(limit):
            return await _post(message, listed(settings.webhook_hosts))
    except TimeoutError:
        return Reply(error=f"no answer within {limit:g} s")
    except (httpx.HTTPError, VLyardError) as error:
        return Reply(error=(str(error) or type(error).__name__)[:_LONGEST_ERROR])
    except Exception as error:
        log.exception("a message to a webhook failed in an unforeseen way", message=str(message.id))
        return Reply(error=f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])


async def _post(message: Message, allowed: frozenset[str]) -> Reply:
    url = checked_url(message.url, allowed)
    *others, last = await asyncio.to_thread(addresses_of, url, allowed)
    for address in others:
        try:
            return await _post_to(address, url, message)
        except httpx.ConnectError:
            continue
    return await _post_to(last, url, message)


async def _post_to(address: str, url: httpx.URL, message: Message) -> Reply:
    """Send to this very address; certificate and `Host` are those of the URL's name."""
    now = int(time.time())
    headers = {
        "Host": url.netloc.decode("ascii"),
        "Content-Type": "application/json",
        "User-Agent": "vlyard-webhooks",
        "webhook-id": str(message.id),
        "webhook-timestamp": str(now),
        "webhook-signature": signature(message.secret, str(message.id), now, message.body),
    }
    # A client for each message: a connection that was made for one name must not serve another at the same address.
    async with (
        httpx.AsyncClient(verify=_trust(), trust_env=False, follow_redirects=False, timeout=None) as client,  # noqa: S113
        client.stream(
            "POST",
            url.copy_with(host=address),
            content=message.body,
            headers=headers,
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        ) as response,
    ):
        status = response.status_code  # the body is of no interest, and is not read
    if httpx.codes.is_success(status):
        return Reply(status)
    return Reply(status, f"answered {status}" + (": redirects are not followed" if 300 <= status < 400 else ""))


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class Deliverer:
    """Sends what is due, from a thread of its own."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._lease_seconds = settings.webhook_timeout_seconds + _LEASE_BEYOND_SECONDS
        self._desk = ThreadPoolExecutor(1, "webhooks-desk")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take nothing new, and end soon: what is under way by then is sent again later, with the same id."""
        self._stopped.set()
        self._thread.join(timeout=_POLL_SECONDS + 2 * _GRACE_SECONDS)

    def tick(self) -> int:
        """Send what is due now, and wait until that is over; returns how many messages it was."""
        return asyncio.run(self._round())

    async def _round(self) -> int:
        due = self._lease(_AT_ONCE, ())
        await asyncio.gather(*map(self._deliver, due))
        return len(due)

    def _run(self) -> None:
        asyncio.run(self._go_on())

    async def _go_on(self) -> None:
        """Send what is due until stopped: what one receiver takes its time over holds up nothing for others."""
        names = ThreadPoolExecutor(_AT_ONCE, "names")  # so that one whose address nobody tells delays no other
        asyncio.get_running_loop().set_default_executor(names)
        under_way: dict[asyncio.Task[None], Due] = {}
        while not self._stopped.is_set():
            for message in await self._at_desk(self._lease_or_wait, list(under_way.values())):
                under_way[asyncio.create_task(self._deliver(message))] = message
            await _first_of(under_way, _POLL_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311  # jitter, not a secret
            under_way = {task: message for task, message in under_way.items() if not task.done()}
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=_GRACE_SECONDS)
            for task in late:
                task.cancel()
            await self._at_desk(self._give_back, [under_way[task] for task in late])

    async def _deliver(self, message: Due) -> None:
        body = orjson.dumps(message.payload)
        reply = await post(Message(message.id, message.url, body, message.secret), self._settings)
        await self._at_desk(self._record_if_possible, message, reply)

    async def _at_desk(self, work: Callable[..., Answer], *given: Any) -> Answer:
        """What is done in the database, in one thread of its own: it is the dispatcher's connections that it uses."""
        return await asyncio.get_running_loop().run_in_executor(self._desk, work, *given)

    def _lease_or_wait(self, under_way: Sequence[Due]) -> Sequence[Due]:
        try:
            return self._lease(_AT_ONCE - len(under_way), [each.webhook for each in under_way])
        except Unavailable as error:
            log.warning("webhooks wait", reason=str(error))
        except Exception:  # this thread has to live
            log.exception("webhooks failed in an unforeseen way")
        return ()

    def _lease(self, most: int, busy: Sequence[UUID]) -> Sequence[Due]:
        """Messages that are due, without those to webhooks that are being told of something already."""
        if most <= 0:
            return ()
        with self._database.transaction() as session:
            return webhooks.lease_due(session, self._lease_seconds, each=_AT_ONCE_TO_ONE, limit=most, but=busy)

    def _give_back(self, messages: Sequence[Due]) -> None:
        try:
            with self._database.transaction() as session:
                webhooks.give_back(session, messages)
        except Unavailable as error:  # their leases run out
            log.warning("messages not given back", count=len(messages), reason=str(error))

    def _record_if_possible(self, message: Due, reply: Reply) -> None:
        try:
            self._record(message, reply)
        except Unavailable as error:  # its lease runs out, and it is sent again
            log.warning("webhooks wait", reason=str(error))
        except Exception:
            log.exception("webhooks failed in an unforeseen way", message=str(message.id))

    def _record(self, message: Due, reply: Reply) -> None:
        again_in = pause_after(message.tries)
        if reply.arrived:
            state, again_in = DeliveryState.DELIVERED, None
        else:
            state = DeliveryState.PENDING if again_in is not None else DeliveryState.EXHAUSTED
            log.warning("webhook not reached", message=str(message.id), tries=message.tries, error=reply.error)
        with self._database.transaction() as session:
            webhooks.settle(session, message, state=state, status=reply.status, error=reply.error, again_in=again_in)
            if reply.status == httpx.codes.GONE:
                webhooks.disable(session, message.webhook, "the receiver answered 410 Gone")


async def _first_of(tasks: Collection[asyncio.Task[None]], seconds: float) -> None:
    """Return when one of the tasks is over, or the time is."""
    if tasks:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    else:
        await asyncio.sleep(seconds)
