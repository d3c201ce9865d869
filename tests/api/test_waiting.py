import asyncio
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from api.waiting import Waiters
from db.session import Database
from vlyard.errors import Unavailable

JOB = UUID(int=7)


def test_a_database_that_hung_once_does_not_silence_those_who_wait(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url)
    looks = 0

    def look(waiters: Waiters, *_: Any) -> tuple[Mapping[UUID, None], Mapping[Any, Any], Mapping[Any, Any]]:
        nonlocal looks
        looks += 1
        if looks == 1:
            time.sleep(3)
            raise Unavailable("the database does not answer")
        return {JOB: None}, {}, {}

    async def wait() -> float:
        waiters = Waiters(database, database_url)
        await waiters.start()
        began = time.monotonic()
        try:
            await waiters.ended(JOB, 30)
        finally:
            await waiters.stop()
        return time.monotonic() - began

    monkeypatch.setattr(Waiters, "_look", look)
    assert asyncio.run(wait()) < 9  # the three seconds, a second's pause, and whatever a busy machine takes
    assert looks == 2
    database.close()
