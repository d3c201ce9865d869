"""What every test may ask for: real servers, and the pictures and labels that lie beside the checkout."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.stack.stack import Stack

IN_CI = os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def own_environment() -> dict[str, str]:
    """This process's environment without our settings, so that no test touches somebody's servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VLYARD_")}


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, own_environment: dict[str, str]) -> Iterator[Stack]:
    """PostgreSQL, Valkey and SeaweedFS, started once for all tests; `servers.settings` says where they are."""
    with Stack(tmp_path_factory.mktemp("servers"), own_environment) as stack:
        yield stack


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real datasets beside the checkout."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        reason = f"the datasets of this test belong in {folder}, which is not there"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
