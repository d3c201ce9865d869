"""Celery's consumer in a worker: from which queues it takes messages, and how often it tells of tasks."""

import time
from collections.abc import Sequence
from typing import Any

from celery.worker.consumer import Consumer

_TELLING_SECONDS = 0.2  # from a task's event to Flower, at most
_TOLD_AT_ONCE = 1_000  # events; far more than happen meanwhile


class Taps:
    """The queues of a worker: open, or closed while it drains, so that others get what comes in."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = queues
        self._closed = False
        self._consumer: Any = None

    def belong_to(self, consumer: Any) -> None:
        """From now on, open and close what this consumer takes from."""
        self._consumer = consumer

    def heed(self, draining: bool) -> None:
        """Close the queues while the worker drains, and open them when it does not any more; from any thread.

        Done soon, in the thread of Celery's loop; a message that is on its way by then goes back to its queue. Where
        that is lost with a connection, it is done after the next call.
        """
        consumer = self._consumer
        if draining != self._closed and consumer is not None and consumer.hub is not None:
            consumer.hub.call_soon(self._turn, consumer, draining)

    def _turn(self, consumer: Any, closed: bool) -> None:
        consumer.turn(self._queues, closed)
        self._closed = closed


class QueueConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, which tells of tasks a few times a second: each telling costs as much as many short jobs."""

    taps: Taps  # of the worker's process, which has one consumer
    _tells_at = 0.0  # monotonic

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.taps.belong_to(self)

    def turn(self, queues: Sequence[str], closed: bool) -> None:
        """Take no message from these queues; or, where they are not closed, take them again."""
        if self.task_consumer is None:  # Redis is away: another connection takes from what is selected then
            chosen = self.app.amqp.queues
            chosen.deselect(queues) if closed else chosen.select(queues)
            return
        for queue in queues:
            self.cancel_task_queue(queue) if closed else self.add_task_queue(queue)

    def on_send_event_buffered(self) -> None:
        if self.hub:
            self.hub.call_soon(self._tell_later)  # which also wakes the loop: a task's end frees a slot

    def _tell_later(self) -> None:
        now = time.monotonic()
        if now >= self._tells_at:  # and not a mark that is taken back: a lost connection clears the timer
            self._tells_at = now + _TELLING_SECONDS
            self.hub.call_later(_TELLING_SECONDS, self._flush_events)
            if self.event_dispatcher:
                self.event_dispatcher.buffer_limit = _TOLD_AT_ONCE  # the event that fills it would wake nobody
