"""The worker process: Celery listens for doorbells, one task per kind, and a runner answers them."""

import gc
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from celery.signals import worker_shutting_down

from control.artefacts import ArtefactStore
from control.queue import make_app, queue_name
from control.rules import rules_from
from control.settings import Settings
from control.wakeup import Bell, Channel
from db import workers
from db.models import Outcome
from db.session import Database
from vlyard.errors import Unavailable
from vlyard.jobs.kinds import KINDS, Device, Isolation
from workers.completer import Completer
from workers.consuming import QueueConsumer, Taps
from workers.handlers import load_handler
from workers.lease import LeaseKeeper
from workers.logs import secrets_of
from workers.runner import Runner

log = structlog.get_logger()

_SWITCH_SECONDS = 0.0002  # Python's own is 0.005


@dataclass(frozen=True)
class Post:
    """Where a worker works."""

    pool: str
    device: Device
    kinds: Sequence[str]
    slots: int
    name: str


@dataclass(frozen=True)
class Machine:
    """What a worker found where it runs."""

    gpus: Sequence[str] = ()  # their names
    self_test: Mapping[str, Any] = field(default_factory=dict)


class AttemptFailed(Exception):
    """The attempt did not succeed. Raised for Flower to see; the job's row says why."""


def work(settings: Settings, post: Post) -> None:
    """Work until the process is told to stop: SIGTERM begins nothing new, and gives back what does not end in time."""
    database = Database(settings.database_url.get_secret_value(), connections=post.slots + 3, role="vlyard-worker")
    bell = Bell(settings.database_url.get_secret_value())
    for kind in post.kinds:
        if KINDS[kind].isolation is Isolation.THREAD:
            load_handler(KINDS[kind])  # now, so that no job waits for imports
    machine = _gpu_machine(settings.cpu_threads) if post.device is Device.GPU else Machine()
    with database.transaction() as session:
        worker = workers.register(
            session,
            name=post.name,
            pool=post.pool,
            device=post.device,
            kinds=post.kinds,
            slots=post.slots,
            gpus=machine.gpus,
            self_test=machine.self_test,
        )
    queues = [queue_name(post.device, post.pool, kind) for kind in post.kinds]
    taps = Taps(queues)
    keeper = LeaseKeeper(
        database,
        worker,
        settings.lease_seconds,
        settings.stop_grace_seconds,
        lambda: bell.strike(Channel.EVENTS),
        heed=taps.heed,
    )
    rules = rules_from(settings)
    completer = Completer(database, worker, rules, lambda: bell.strike(*Channel))
    store, secrets = ArtefactStore(settings), secrets_of(settings)
    runner = Runner(worker, database, store, keeper, completer, settings, rules, secrets, _unload, post.slots)
    keeper.start()
    bell.start()
    completer.start()
    _consume(make_app(settings, queues), post, runner, taps)
    completer.stop()
    keeper.stop()
    bell.stop()
    with database.transaction() as session:
        workers.end(session, worker)
    database.close()


def default_name(device: Device) -> str:
    """A name that is unique on this machine and says where the worker is."""
    return f"{device}-{os.getpid()}@{socket.gethostname()}"


def _consume(app: Celery, post: Post, runner: Runner, taps: Taps) -> None:
    for kind in post.kinds:
        _add_task(app, kind, runner)

    def leave(**_: Any) -> None:
        runner.leave(runner.settings.shutdown_grace_seconds)
        try:
            with runner.database.transaction() as session:
                workers.drain(session, runner.worker, draining=True)
        except Unavailable as error:
            log.warning("leaving without saying so", reason=str(error))

    worker_shutting_down.connect(leave, weak=False)
    log.info("working", pool=post.pool, device=post.device, kinds=list(post.kinds), slots=post.slots, name=post.name)
    gc.collect()
    gc.freeze()  # what is loaded by now stays; looking through it for garbage again and again took a seventh of the CPU
    QueueConsumer.taps = taps
    app.Worker(
        hostname=post.name, concurrency=post.slots, pool="threads", loglevel="WARNING", without_gossip=True,
        without_mingle=True, quiet=True, consumer_cls=QueueConsumer,
    ).start()  # fmt: skip


def _add_task(app: Celery, kind: str, runner: Runner) -> None:
    @app.task(name=kind, throws=(AttemptFailed,))  # type: ignore[untyped-decorator]  # Celery has no types
    def answer(pairs: Sequence[tuple[str, int]], alone: bool = False) -> None:
        endings = runner.answer(kind, [(UUID(job), attempt) for job, attempt in pairs], alone=alone)
        failed = [ending for ending in endings if ending.outcome is not Outcome.SUCCEEDED]
        if failed:
            first = failed[0].failure.message if failed[0].failure else failed[0].outcome
            raise AttemptFailed(
                first if len(pairs) == 1 else f"{len(failed)} of {len(pairs)} failed; the first: {first}"
            )


def _unload() -> None:
    """Give back the memory of every model of this process that nobody asks."""
    from workers.asking import own_models  # here, because it brings torch

    own_models().warm.unload()


def _gpu_machine(cpu_threads: int) -> Machine:
    """What is here to run models on. Where they have to do without a GPU, they take so many threads, not all cores."""
    import torch

    from workers.qwen.selftest import self_test

    # The engine's thread asks for the interpreter between two operations, hundreds of times a token; each time a thread
    # that reads a picture may keep it for as long as this.
    sys.setswitchinterval(_SWITCH_SECONDS)
    if not torch.cuda.is_available():
        torch.set_num_threads(cpu_threads)
    found = self_test()
    if not found.ok:  # it works nevertheless: who reads this knows better what matters
        log.warning("the self-test found faults", faults=[each.note for each in found.checks if not each.ok])
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Machine(names, found.as_json())
