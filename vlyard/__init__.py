"""VLyard takes a team from labelled pictures to a tuned, measured, exported Qwen3-VL. This is its language.

Everything that an application needs is here: the client, the specifications it submits, the results it gets back
and the errors it catches. Each is loaded at its first use: workers and the label formats need few of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlyard.client import Client
    from vlyard.errors import Cancelled, Complaint, JobFailed, Unavailable, UserError, VLyardError, WaitTimeout
    from vlyard.jobs.conversion import ConversionResult, ConversionSpec
    from vlyard.jobs.events import Event
    from vlyard.jobs.inference import DetectedObject, InferenceResult, InferenceSpec
    from vlyard.jobs.noop import NoopResult, NoopSpec
    from vlyard.jobs.spec import Result, Spec
    from vlyard.jobs.state import State
    from vlyard.jobs.view import Artefact, Job

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

_MODULES = (
    "vlyard.errors",
    "vlyard.jobs.conversion",
    "vlyard.jobs.events",
    "vlyard.jobs.inference",
    "vlyard.jobs.noop",
    "vlyard.jobs.spec",
    "vlyard.jobs.state",
    "vlyard.jobs.view",
    "vlyard.client",
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # it costs as much as all the rest, and few ask

        return version("vlyard")
    if name in __all__:
        return next(vars(module)[name] for module in map(import_module, _MODULES) if name in vars(module))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
