"""A VLyard without processes: what is tested runs in the test's own, on real servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from control.stack.supervisor import Supervisor
from tests.system import System


@pytest.fixture
def vlyard(environment: dict[str, str], tmp_path: Path) -> Iterator[System]:
    """Settings, database and store of the test's own. Its supervisor never runs: nothing can be started."""
    own = System(environment, Supervisor(tmp_path), tmp_path)
    yield own
    own.close()
