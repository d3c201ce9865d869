"""Who may do what."""

from enum import StrEnum


class Role(StrEnum):
    """What an API key may do."""

    MEMBER = "member"  # submit jobs, and read what its team owns
    ADMIN = "admin"  # that, and everything that concerns more than one team
