"""Messages that come twice, late, or to nobody: the rows decide what runs."""

import os
import signal

import redis

from control.queue import Doorbells
from db.queue import Doorbell
from tests.system import System, eventually
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State
from vlyard.teams import Role


def test_a_message_that_is_delivered_twice_runs_its_job_once(system: System) -> None:
    # given a dispatched job whose worker is not listening, and its message three times in the queue
    system.start_dispatcher()
    worker = system.start_worker(name="worker")
    os.killpg(worker, signal.SIGSTOP)
    job = system.submit(echo="once")
    eventually(lambda: system.job(job).state is State.DISPATCHED)
    Doorbells(system.settings).ring([Doorbell(((job, 1),), "default", "noop", Device.CPU)] * 2)
    # when the worker hears them all
    os.killpg(worker, signal.SIGCONT)
    # then one attempt ran, and the other messages found nothing to claim
    assert system.ended(job).state is State.SUCCEEDED
    eventually(lambda: system.log("worker").count("nothing to claim") >= 2)
    assert len(system.attempts(job)) == 1


def test_a_message_of_an_attempt_that_is_over_is_ignored(system: System) -> None:
    # given a job that has ended
    system.start_dispatcher()
    system.start_worker(name="worker")
    job = system.submit(fail="on purpose")
    assert system.ended(job).state is State.FAILED
    # when its message comes again, days later as it were, and another job after it
    Doorbells(system.settings).ring([Doorbell(((job, 1),), "default", "noop", Device.CPU)])
    later = system.submit(echo="later")
    # then the worker goes on as if nothing had been
    assert system.ended(later).state is State.SUCCEEDED
    eventually(lambda: "nothing to claim" in system.log("worker"))
    row = system.job(job)
    assert (row.state, row.attempt) == (State.FAILED, 1)
    assert row.error is not None
    assert row.error["message"] == "on purpose"


def test_a_gpu_kind_never_reaches_a_cpu_worker(system: System) -> None:
    # given a CPU worker and no other
    system.start_dispatcher()
    system.start_worker(name="worker")
    caller = system.caller(role=Role.ADMIN)
    picture = system.upload(caller, "picture.png", b"not looked at by anybody")
    # when a job of a GPU kind is submitted, and after it one of a CPU kind
    gpu = system.submit(caller, kind="inference", image=str(picture), prompt="What is this?")
    cpu = system.submit(caller)
    # then the CPU kind runs and the GPU kind waits, in Postgres and not in Redis
    assert system.ended(cpu).state is State.SUCCEEDED
    assert system.job(gpu).state is State.QUEUED
    connection = redis.Redis.from_url(system.settings.redis_url.get_secret_value())
    assert not list(connection.scan_iter(f"{system.settings.redis_prefix}gpu.*"))
