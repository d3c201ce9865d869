"""What tests of several handlers begin with."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.workers.desks import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator["Desk"]:
    """A desk, whose models give their memory back in the end."""
    from tests.workers.desks import Desk  # with torch, without which most tests here do

    own = Desk(tmp_path)
    yield own
    own.models.warm.unload()
