"""Celery, fenced in: how a doorbell travels through Redis.

A message carries jobs' ids and attempt numbers, and whether they run alone, nothing else. Losing, doubling or delaying
it changes nothing but time, so messages are acknowledged early, no results are stored, and nothing here retries.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import BatchPublishError, OperationalError
from redis.exceptions import RedisError

from control.settings import Settings
from db.queue import Doorbell
from vlyard.errors import Unavailable
from vlyard.jobs.kinds import Device


def queue_name(device: Device, pool: str, kind: str) -> str:
    """The queue of a kind in a pool: `gpu.<pool>.<kind>` or `cpu.<pool>.<kind>`."""
    return f"{device}.{pool}.{kind}"


def make_app(settings: Settings, queues: Sequence[str] = ()) -> Celery:
    """The Celery application of this process; `queues` are the ones it consumes."""
    app = Celery("vlyard", broker=settings.redis_url.get_secret_value())
    app.conf.update(_configuration(settings.redis_prefix))
    app.conf.task_queues = [_queue(name) for name in queues]
    return app


class Doorbells:
    """Rings workers: publishes the messages of dispatched jobs."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)

    def ring(self, bells: Iterable[Doorbell]) -> None:
        """Publish one message for each; raises `Unavailable` where Redis does not take them."""
        try:
            with self._app.producer_pool.acquire(block=True, timeout=5) as producer, producer.batch():
                for bell in bells:
                    self._publish(producer, bell)
        except (OperationalError, BatchPublishError, RedisError, OSError) as error:
            self._app.pool.resize(self._app.pool.limit, force=True, reset=True)  # what was broken is not used again
            raise Unavailable(f"Redis does not take messages: {error}") from error

    def _publish(self, producer: Any, bell: Doorbell) -> None:
        self._app.send_task(
            bell.kind,
            args=([[str(job), attempt] for job, attempt in bell.pairs],),
            task_id=bell.name,
            # What Flower shows. Celery's own way to write it is a quarter of sending.
            argsrepr=" ".join(f"{job}:{attempt}" for job, attempt in bell.pairs),
            kwargs={"alone": True} if bell.alone else None,
            kwargsrepr="{'alone': True}" if bell.alone else "{}",
            queue=_queue(queue_name(bell.device, bell.pool, bell.kind)),
            producer=producer,
            retry=False,
        )


def run_flower(settings: Settings) -> None:
    """Run Flower on this machine until it is stopped. The password travels in the environment, not in arguments."""
    os.environ["FLOWER_BASIC_AUTH"] = f"{settings.flower_user}:{settings.flower_password.get_secret_value()}"
    make_app(settings).start(
        argv=[
            "flower",
            f"--address={settings.flower_host}",
            f"--port={settings.flower_port}",
            "--purge_offline_workers=300",
            "--max_tasks=20000",
            "--natural_time=False",
            "--read_only=True",
            "--logging=warning",
        ]
    )


def _queue(name: str) -> Queue:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def _configuration(prefix: str) -> dict[str, Any]:
    return {
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_pool_acquire_timeout": 5,
        "broker_transport_options": {
            "health_check_interval": 10,
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "global_keyprefix": prefix,
            "queue_order_strategy": "round_robin",
            # A message that was taken is gone, and no visibility timeout redelivers it. One that is lost with its
            # worker is rung again, as any other that nobody answered.
            "ack_emulation": False,
        },
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_serializer": "json",
        "event_serializer": "json",
        "enable_utc": True,
        "task_acks_late": False,
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        "task_reject_on_worker_lost": False,
        "task_publish_retry": False,
        "task_create_missing_queues": False,
        "worker_pool": "threads",
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": True,
        "task_track_started": True,
        "worker_hijack_root_logger": False,
        "worker_enable_remote_control": True,
        "control_exchange": f"{prefix}control",
        "event_exchange": f"{prefix}events",
        "event_queue_prefix": f"{prefix}events",
    }
