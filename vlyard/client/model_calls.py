"""The client's calls about named models."""

from collections.abc import Iterator
from urllib.parse import quote

from vlyard.client.connection import Connection
from vlyard.models import Model, Models


class ModelCalls(Connection):
    """Models that the team's jobs made."""

    def models(self) -> Iterator[Model]:
        """All versions of the team's models, the newest first, fetched page by page as the iteration goes."""
        page = self._call(Models, "GET", "/v1/models")
        yield from page.data
        while page.next_cursor is not None:
            page = self._call(Models, "GET", "/v1/models", params={"cursor": page.next_cursor})
            yield from page.data

    def model(self, name: str) -> Model:
        """The version that is called `<team>/<name>:<version>`. Raises `NotFound`."""
        return self._call(Model, "GET", f"/v1/models/{quote(name, safe='/:')}")
