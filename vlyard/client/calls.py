"""The client: every call of the API as one typed method. What one call is made of is in the files beside this one."""

from vlyard.client.connection import KEY_VARIABLE, URL_VARIABLE
from vlyard.client.file_calls import FileCalls
from vlyard.client.job_calls import JobCalls
from vlyard.client.model_calls import ModelCalls
from vlyard.client.team_calls import TeamCalls
from vlyard.client.webhook_calls import WebhookCalls

__all__ = ["KEY_VARIABLE", "URL_VARIABLE", "Client"]


class Client(JobCalls, FileCalls, ModelCalls, WebhookCalls, TeamCalls):
    """A team's way to VLyard.

    `base_url` and `api_key` default to the environment's VLYARD_URL and VLYARD_API_KEY. `timeout` is how many
    seconds a call may take with all its tries, besides what it was asked to wait: calls are repeated after lost
    connections, silence, and the statuses 429, 502, 503 and 504, and every POST carries one Idempotency-Key through
    all its tries, so that nothing happens twice. `transport` replaces httpx's own, as
    `vlyard.client.in_process.InProcess` does in your tests.

    Methods raise the classes of `vlyard.errors`: what the API's problem document says, or `Unavailable` where no
    answer came. A client may be shared by threads, and is a context manager that closes its connections.
    """
