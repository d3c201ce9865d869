"""A question waits for those who are known to come."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from time import sleep

from tests.qwen.test_engine import TOGETHER, requests
from vlyard.errors import InvalidInput
from workers.qwen.engine import Engine
from workers.qwen.loading import LoadedModel
from workers.qwen.request import Request
from workers.qwen.sampling import GREEDY


def test_a_question_waits_for_those_who_are_known_to_come(demo: LoadedModel) -> None:
    question = replace(requests()[3], sampling=replace(GREEDY, max_new_tokens=1))

    def made(seconds: float) -> Callable[[], Request]:
        def make() -> Request:
            sleep(seconds)
            return question

        return make

    def broken() -> Request:
        sleep(0.1)
        raise InvalidInput("no picture")

    limits = replace(TOGETHER, wait_seconds=2)
    with closing(Engine(demo, limits)) as engine, ThreadPoolExecutor(4) as pool:
        said = [pool.submit(engine.ask, made(seconds)) for seconds in (0, 1.2, 2.4)]  # the last is late for the first
        failed = pool.submit(engine.ask, broken)

    assert [each.result().rows for each in said] == [3, 3, 3]
    assert isinstance(failed.exception(), InvalidInput)
    assert said[2].result().waited_seconds < 2  # its making is none of it
