"""The table of kinds. One row is all there is to say about a kind of job.

The HTTP union, validation, Celery tasks and queues, CLI sub-commands and the documentation iterate over it.
Handlers are named by text, so that reading the table imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from vlyard.jobs import evaluation, export, importing, training, training_check, verification
from vlyard.jobs.conversion import ConversionResult, ConversionSpec
from vlyard.jobs.evaluation import EvaluationResult, EvaluationSpec
from vlyard.jobs.export import ExportResult, ExportSpec
from vlyard.jobs.importing import ImportResult, ImportSpec
from vlyard.jobs.inference import MOST_PICTURES, InferenceResult, InferenceSpec
from vlyard.jobs.noop import NoopResult, NoopSpec
from vlyard.jobs.prediction import PREDICTIONS, PredictionResult, PredictionSpec
from vlyard.jobs.spec import Result, Spec
from vlyard.jobs.training import TrainingResult, TrainingSpec
from vlyard.jobs.training_check import TrainingCheckResult, TrainingCheckSpec
from vlyard.jobs.verification import VerificationResult, VerificationSpec


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


class Isolation(StrEnum):
    THREAD = "thread"  # in the worker's process, beside its warm models; stops where it looks at its context
    PROCESS = "process"  # in a process group of its own, which can be killed at any moment


@dataclass(frozen=True)
class Kind:
    """A kind of job: what it takes, what it gives back, where and how it runs."""

    name: str
    spec: type[Spec]
    result: type[Result]
    device: Device
    handler: str  # "module:function", called with (spec, context), returns the result
    time_limit: timedelta
    max_attempts: int
    isolation: Isolation
    bundle: int = 1  # how many of them may travel in one message, on one slot: for short jobs
    together: bool = False  # whether they run at the same time, not one after the other: for what a batch makes faster
    admin_only: bool = False
    resumes: bool = False  # whether the next attempt goes on from a checkpoint of the one before
    makes_model: bool = False  # whether its output `model` becomes a version of a named model

    def never_makes(self, output: str) -> str:
        """Why no job of the kind can have an output of this name; empty where one may."""
        known = OUTPUTS.get(self.name)
        if known is None or output in known:
            return ""
        return f"jobs of kind {self.name} have no output {output!r} (their outputs: {', '.join(sorted(known))})"


_HOUR = timedelta(hours=1)

# fmt: off
_ROWS = (
    Kind("conversion", ConversionSpec, ConversionResult, Device.CPU, "workers.conversion:run",
         time_limit=6 * _HOUR, max_attempts=3, isolation=Isolation.PROCESS),
    Kind("inference", InferenceSpec, InferenceResult, Device.GPU, "workers.inference:run",
         time_limit=_HOUR / 6, max_attempts=3, isolation=Isolation.THREAD, bundle=32, together=True),
    Kind("prediction", PredictionSpec, PredictionResult, Device.GPU, "workers.prediction:run",
         time_limit=24 * _HOUR, max_attempts=3, isolation=Isolation.THREAD),
    Kind("training_check", TrainingCheckSpec, TrainingCheckResult, Device.CPU, "workers.training_check:run",
         time_limit=6 * _HOUR, max_attempts=3, isolation=Isolation.PROCESS),
    Kind("training", TrainingSpec, TrainingResult, Device.GPU, "workers.training:run",
         time_limit=7 * 24 * _HOUR, max_attempts=3, isolation=Isolation.PROCESS, resumes=True, makes_model=True),
    Kind("evaluation", EvaluationSpec, EvaluationResult, Device.GPU, "workers.evaluation:run",
         time_limit=24 * _HOUR, max_attempts=3, isolation=Isolation.PROCESS),
    Kind("export", ExportSpec, ExportResult, Device.CPU, "workers.export:run",
         time_limit=24 * _HOUR, max_attempts=3, isolation=Isolation.PROCESS, makes_model=True),
    Kind("verification", VerificationSpec, VerificationResult, Device.GPU, "workers.verification:run",
         time_limit=6 * _HOUR, max_attempts=3, isolation=Isolation.PROCESS),
    Kind("import", ImportSpec, ImportResult, Device.CPU, "workers.importing:run",
         time_limit=24 * _HOUR, max_attempts=3, isolation=Isolation.PROCESS, makes_model=True),
    Kind("noop", NoopSpec, NoopResult, Device.CPU, "workers.noop:run",
         time_limit=_HOUR, max_attempts=3, isolation=Isolation.THREAD, bundle=32, admin_only=True),
)
# fmt: on

KINDS: Mapping[str, Kind] = {row.name: row for row in _ROWS}

# The names that a kind's outputs may have, so that one that none has is refused before anything has run. Which of them
# a job makes, its specification and its input decide. Of a kind that is not here, nobody knows them before.
OUTPUTS: Mapping[str, frozenset[str]] = {
    "conversion": frozenset({"dataset", "report", "report_table", "statistics", "plots", "contact_sheet"}),
    "inference": frozenset({"annotated", *(f"annotated-{number + 1}" for number in range(MOST_PICTURES))}),
    "prediction": frozenset({PREDICTIONS}),
    "training_check": frozenset({training_check.SURVEY, training_check.PREVIEW, training_check.SHEET,
                                 training_check.UNUSABLE}),
    "training": frozenset({training.MODEL, training.RECIPE, training.METRICS, training.CURVE, training.UNUSABLE}),
    "evaluation": frozenset({evaluation.REPORT, evaluation.PICTURES, evaluation.CLASSES, evaluation.GALLERY}),
    "export": frozenset({export.MODEL, export.SUMMARY, verification.REPORT}),
    "verification": frozenset({verification.REPORT}),
    "import": frozenset({importing.MODEL}),
}  # fmt: skip
