"""A database of the test's own, reached as the product reaches it."""

from collections.abc import Iterator

import pytest

from db.session import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, connections=10, role="test")
    yield database
    database.close()
