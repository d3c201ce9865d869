"""VLyard takes a team from labelled pictures to a tuned, measured, exported Qwen3-VL. This is its language.

Everything that an application needs is here: the client, the specifications it submits, the results it gets back
and the errors it catches. Each is loaded at its first use: workers and the label formats need few of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlyard.client import Client
    from vlyard.client.in_process import InProcess
    from vlyard.errors import (
        Cancelled,
        Complaint,
        Conflict,
        InvalidInput,
        JobFailed,
        NotFound,
        Unavailable,
        UserError,
        VLyardError,
        WaitTimeout,
    )
    from vlyard.jobs.conversion import ConversionResult, ConversionSpec
    from vlyard.jobs.evaluation import EvaluationResult, EvaluationSpec
    from vlyard.jobs.events import Event
    from vlyard.jobs.export import ExportResult, ExportSpec
    from vlyard.jobs.importing import ImportResult, ImportSpec
    from vlyard.jobs.inference import (
        Answer,
        BoxFound,
        ElementFound,
        InferenceResult,
        InferenceSpec,
        LineFound,
        Message,
        PicturePart,
        PointFound,
        TextPart,
    )
    from vlyard.jobs.noop import NoopResult, NoopSpec
    from vlyard.jobs.prediction import PredictionResult, PredictionSpec
    from vlyard.jobs.repeating import repeated
    from vlyard.jobs.spec import Result, Spec
    from vlyard.jobs.state import State
    from vlyard.jobs.training import TrainingResult, TrainingSpec
    from vlyard.jobs.training_check import TrainingCheckResult, TrainingCheckSpec
    from vlyard.jobs.verification import VerificationResult, VerificationSpec
    from vlyard.jobs.view import Artefact, Job

__all__ = [
    "Answer",
    "Artefact",
    "BoxFound",
    "Cancelled",
    "Client",
    "Complaint",
    "Conflict",
    "ConversionResult",
    "ConversionSpec",
    "ElementFound",
    "EvaluationResult",
    "EvaluationSpec",
    "Event",
    "ExportResult",
    "ExportSpec",
    "ImportResult",
    "ImportSpec",
    "InferenceResult",
    "InProcess",
    "InferenceSpec",
    "InvalidInput",
    "Job",
    "JobFailed",
    "LineFound",
    "Message",
    "NoopResult",
    "NoopSpec",
    "NotFound",
    "PicturePart",
    "PointFound",
    "PredictionResult",
    "PredictionSpec",
    "Result",
    "Spec",
    "State",
    "TextPart",
    "TrainingCheckResult",
    "TrainingCheckSpec",
    "TrainingResult",
    "TrainingSpec",
    "Unavailable",
    "UserError",
    "VLyardError",
    "VerificationResult",
    "VerificationSpec",
    "WaitTimeout",
    "__version__",
    "repeated",
]

_MODULES = (
    "vlyard.errors",
    "vlyard.jobs.conversion",
    "vlyard.jobs.evaluation",
    "vlyard.jobs.events",
    "vlyard.jobs.export",
    "vlyard.jobs.importing",
    "vlyard.jobs.inference",
    "vlyard.jobs.noop",
    "vlyard.jobs.prediction",
    "vlyard.jobs.repeating",
    "vlyard.jobs.spec",
    "vlyard.jobs.state",
    "vlyard.jobs.training",
    "vlyard.jobs.training_check",
    "vlyard.jobs.verification",
    "vlyard.jobs.view",
    "vlyard.client",
    "vlyard.client.in_process",
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # it costs as much as all the rest, and few ask

        return version("vlyard")
    if name in __all__:
        return next(vars(module)[name] for module in map(import_module, _MODULES) if name in vars(module))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
