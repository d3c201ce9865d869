"""The client's calls about who may do what and where: the key's own team, teams and keys, pools and their workers."""

from urllib.parse import quote
from uuid import UUID

from vlyard.client.connection import Connection, checked
from vlyard.errors import InvalidInput
from vlyard.pools import NewPool, Pool, Pools
from vlyard.teams import Key, Keys, Me, NewKey, NewTeam, Role, Team, Teams, prefix_of


class TeamCalls(Connection):
    """Teams, keys and pools. What makes or shows more than one team's raises `Forbidden` for a member's key."""

    def me(self) -> Me:
        """Whose key this client has: the team, and what it may do."""
        return self._call(Me, "GET", "/v1/me")

    def pools(self) -> tuple[Pool, ...]:
        """All pools by name, with their living workers and what waits and runs there."""
        return self._call(Pools, "GET", "/v1/pools").data

    def create_pool(self, name: str, *, idempotency_key: str | None = None) -> Pool:
        """Make a pool, for administrators. Raises `Conflict` where there is one of that name."""
        body = checked(NewPool, "the pool", name=name)
        return self._call(Pool, "POST", "/v1/pools", body=body, key=idempotency_key)

    def teams(self) -> tuple[Team, ...]:
        """All teams by name, for administrators."""
        return self._call(Teams, "GET", "/v1/teams").data

    def create_team(self, name: str, *, idempotency_key: str | None = None) -> Team:
        """Make a team, for administrators. Raises `Conflict` where there is one of that name."""
        body = checked(NewTeam, "the team", name=name)
        return self._call(Team, "POST", "/v1/teams", body=body, key=idempotency_key)

    def keys(self, team: UUID | str) -> tuple[Key, ...]:
        """All keys of the team of that name or id, oldest first, for administrators; never the keys themselves."""
        return self._call(Keys, "GET", f"/v1/teams/{_named(str(team))}/keys").data

    def create_key(
        self, team: UUID | str, role: Role | str = Role.MEMBER, *, idempotency_key: str | None = None
    ) -> Key:
        """Make a key for the team of that name or id, for administrators. The answer's `key` is shown only now."""
        body = checked(NewKey, "the key", role=role)
        return self._call(Key, "POST", f"/v1/teams/{_named(str(team))}/keys", body=body, key=idempotency_key)

    def revoke_key(self, prefix: str) -> None:
        """Take a key back, named by its prefix, for administrators; from then on it opens nothing.

        Where the whole key is given, its prefix alone travels. Raises `NotFound`, and `Conflict` for the client's own.
        """
        self._delete(f"/v1/keys/{_named(prefix_of(prefix))}")


def _named(name: str) -> str:
    """A name as a part of a path."""
    if not name.strip() or name in {".", ".."}:
        raise InvalidInput(f"{name!r} is no name")
    return quote(name, safe="")
