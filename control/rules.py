"""The rules of attempts, as the settings give them."""

import random

from control.lifecycle import Rules
from control.retrying import Backoff
from control.settings import Settings


def rules_from(settings: Settings) -> Rules:
    """Leases and retries as set, with a random source of its own."""
    backoff = Backoff(settings.retry_base_seconds, settings.retry_cap_seconds)
    return Rules(settings.lease_seconds, backoff, random.Random())  # noqa: S311  # jitter, not a secret
