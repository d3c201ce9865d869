"""VLyard takes a team from labelled pictures to a tuned, measured, exported Qwen3-VL. This is its language.

Everything that an application needs is here: the client, the specifications it submits, the results it gets back
and the errors it catches. The client is loaded at its first use, because workers import this package without it.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vlyard.errors import Cancelled, Complaint, JobFailed, Unavailable, UserError, VLyardError, WaitTimeout
from vlyard.jobs.conversion import ConversionResult, ConversionSpec
from vlyard.jobs.events import Event
from vlyard.jobs.inference import DetectedObject, InferenceResult, InferenceSpec
from vlyard.jobs.noop import NoopResult, NoopSpec
from vlyard.jobs.spec import Result, Spec
from vlyard.jobs.state import State
from vlyard.jobs.view import Artefact, Job

if TYPE_CHECKING:
    from vlyard.client import Client

__version__ = version("vlyard")

__all__ = [
    "Artefact",
    "Cancelled",
    "Client",
    "Complaint",
    "ConversionResult",
    "ConversionSpec",
    "DetectedObject",
    "Event",
    "InferenceResult",
    "InferenceSpec",
    "Job",
    "JobFailed",
    "NoopResult",
    "NoopSpec",
    "Result",
    "Spec",
    "State",
    "Unavailable",
    "UserError",
    "VLyardError",
    "WaitTimeout",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from vlyard.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
