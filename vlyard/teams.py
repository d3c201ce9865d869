"""Teams and API keys as the API shows them and is asked for them, and who may do what."""

import re
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

KEY_MARK = "vly"  # so that a key found in a log is recognised for what it is
KEY_SHAPE = re.compile(rf"{KEY_MARK}_([0-9a-f]{{12}})_[0-9a-f]{{64}}")
TEAM_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"


class Role(StrEnum):
    """What an API key may do."""

    MEMBER = "member"  # submit jobs, and read what its team owns
    ADMIN = "admin"  # that, and everything that concerns more than one team


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class NewTeam(BaseModel):
    """A team to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=TEAM_PATTERN, description="Letters, digits, `_`, `.` and `-`; 63 at most.")


class Team(_View):
    """Who owns jobs and artefacts, and among whom the pools are shared."""

    id: UUID
    name: str
    created_at: datetime


class Teams(_View):
    """All teams, by name."""

    data: tuple[Team, ...]


class NewKey(BaseModel):
    """What a new key may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role = Role.MEMBER


class Key(_View):
    """An API key, which its prefix names."""

    prefix: str = Field(description="The part of the key between its underscores.")
    team: str = Field(description="The team's name.")
    role: Role
    created_at: datetime
    revoked_at: datetime | None = Field(None, description="From then on it opens nothing.")
    key: str | None = Field(None, description="The key itself; only in the answer that made it.")


class Keys(_View):
    """All keys of a team, those that were taken back among them, oldest first."""

    data: tuple[Key, ...]


class Me(_View):
    """Whose key a request carries."""

    team: Team
    role: Role
    prefix: str = Field(description="The part of the key between its underscores.")


def prefix_of(key: str) -> str:
    """The prefix that names a key: of a whole key, its visible part; of another text, the text."""
    shape = KEY_SHAPE.fullmatch(key.strip())
    return shape[1] if shape else key
