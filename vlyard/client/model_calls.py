"""The client's calls about named models: finding them, what they are called, where they come from, their end."""

from collections.abc import Iterator
from urllib.parse import quote

from vlyard.client.connection import Connection
from vlyard.lineage import Lineage, ModelComparison, Step
from vlyard.models import Model, Models


class ModelCalls(Connection):
    """Models that the team's jobs made, and those that are shared with every team."""

    def models(self) -> Iterator[Model]:
        """All versions that the team may use, the newest first, fetched page by page as the iteration goes."""
        page = self._call(Models, "GET", "/v1/models")
        yield from page.data
        while page.next_cursor is not None:
            page = self._call(Models, "GET", "/v1/models", params={"cursor": page.next_cursor})
            yield from page.data

    def model(self, name: str) -> Model:
        """The version `<team>/<name>:<version>`, or the one for which `<team>/<name>@<alias>` stands now.

        Raises `NotFound`.
        """
        return self._call(Model, "GET", _path(name))

    def set_alias(self, name: str, alias: str) -> Model:
        """From now on `<team>/<name>@<alias>` is the version of that name, whatever it was before.

        Raises `NotFound`, and `Forbidden` where the version is another team's.
        """
        return self._call(Model, "PUT", f"{_path(name)}/aliases/{quote(alias, safe='')}")

    def delete_alias(self, name: str, alias: str) -> None:
        """Forget an alias of a version. Raises `Conflict` where it does not stand for that version."""
        self._delete(f"{_path(name)}/aliases/{quote(alias, safe='')}")

    def delete_model(self, name: str) -> None:
        """Delete a version with its weights. Raises `Conflict`, with the reasons, while something uses it."""
        self._delete(_path(name))

    def lineage(self, name: str, *, cursor: str | None = None, limit: int = 50) -> Lineage:
        """Where a version comes from, and the newest jobs that used it; `uses` has all of them."""
        wanted = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
        return self._call(Lineage, "GET", f"{_path(name)}/lineage", params=wanted)

    def uses(self, name: str) -> Iterator[Step]:
        """All jobs that used a version, the newest first, fetched page by page as the iteration goes."""
        page = self.lineage(name)
        yield from page.uses
        while page.next_cursor is not None:
            page = self.lineage(name, cursor=page.next_cursor)
            yield from page.uses

    def compare_models(self, left: str, right: str) -> ModelComparison:
        """Two versions side by side: how they came to be, where that differs, and how well they did."""
        return self._call(ModelComparison, "GET", f"{_path(left)}/comparison", params={"other": right})


def _path(name: str) -> str:
    return f"/v1/models/{quote(name, safe='/:@')}"
